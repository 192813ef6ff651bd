"""What a network sees, and what that demands of tiles."""
