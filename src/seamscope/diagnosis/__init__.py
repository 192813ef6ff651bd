"""What is found by running a network on an image: seams, their causes, proofs, statistics."""
