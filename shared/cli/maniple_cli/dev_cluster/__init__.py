"""Real servers and whole clusters on this machine: for `maniple dev`, tests and bench."""
