"""One face for every network: probed, made faster, its statistics fixed."""
