"""Predict an image tile by tile, with or without keeping the result."""
