"""AMQP 0-9-1 itself, as far as RabbitMQ and we need it."""
