"""A candidate against its reference: metrics, their spread, times and memory, gates."""
