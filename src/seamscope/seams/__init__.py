"""How much neighbouring tiles disagree: numbers, pictures, and both tiles' opinions."""
