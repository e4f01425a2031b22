"""A whole cluster on this machine: real RabbitMQ and Consul as child processes."""
