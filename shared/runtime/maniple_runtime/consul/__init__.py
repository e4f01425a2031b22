"""Consul: its client, the catalog, and a process's own registration there."""
