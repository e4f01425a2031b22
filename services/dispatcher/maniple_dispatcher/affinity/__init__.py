"""Tasks that go to one agent by their affinity key, and the queues of agents that are gone."""
