"""What the agent decides, without I/O: time, ids and randomness are arguments."""
