"""A cluster that a real Prometheus watches."""
