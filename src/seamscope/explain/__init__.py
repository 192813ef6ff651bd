"""Explain seams: which causes make them, with the share of each; what tiles do to normalization."""
