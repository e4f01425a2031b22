"""What the processes of Maniple share: settings, runner, broker, Consul, health, telemetry."""
