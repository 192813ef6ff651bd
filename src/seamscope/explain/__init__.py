"""Which of the four causes makes the seams, with its share; what tiles do to normalization."""
