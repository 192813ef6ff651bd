"""Images of any size: reading and writing, dimensions, intensities and labels."""
