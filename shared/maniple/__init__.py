"""Maniple: a cluster of agents that execute tasks, on RabbitMQ and Consul."""
