"""What the dispatcher decides, without I/O: time, ids and randomness are arguments."""
