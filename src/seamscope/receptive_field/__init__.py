"""How far a network reaches into the image, and what that demands of tiles."""
