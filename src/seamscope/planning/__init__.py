"""Plan tiles: settings become an exact grid with its cost and warnings."""
