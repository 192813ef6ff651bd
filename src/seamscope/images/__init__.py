"""What is read and written: images of any size, their dimensions, intensities and labels."""
