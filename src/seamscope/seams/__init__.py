"""Measure seams: how much neighbouring tiles disagree, in numbers and heat maps."""
