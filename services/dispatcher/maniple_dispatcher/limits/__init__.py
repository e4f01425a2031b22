"""Limits and circuit breakers over all dispatchers: owners, leases, gossip, snapshots."""
