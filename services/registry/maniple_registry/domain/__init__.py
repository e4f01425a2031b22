"""What the registry decides, without I/O: time, ids and randomness are arguments."""
