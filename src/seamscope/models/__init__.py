"""Open a network, measure what it needs, run it: one face for every format."""
