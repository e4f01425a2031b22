"""What the policy decides, without I/O: time, ids and randomness are arguments."""
