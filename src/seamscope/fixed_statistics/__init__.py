"""Fix the statistics of normalization layers: seamless prediction without retraining."""
