"""Seamless prediction without retraining: statistics of the whole image."""
