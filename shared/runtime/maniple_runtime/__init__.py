"""What Maniple's processes share: settings, life, control plane, Consul, health, telemetry."""
