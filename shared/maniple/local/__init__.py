"""Real servers and whole clusters on this machine: what `maniple dev`, the tests and bench start."""
