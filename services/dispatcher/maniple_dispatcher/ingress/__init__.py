"""What comes in: submissions, retries, dead letters; what is admitted, and what is refused."""
