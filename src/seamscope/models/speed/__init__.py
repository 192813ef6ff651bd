"""Faster equivalents of a network: fused, trimmed to the kept pixels, chosen by a trial."""
