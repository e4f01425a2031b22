"""Publishing on the hot path: bundles, results, replies, and what is told of each."""
