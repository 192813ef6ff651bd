"""Plan tiles: exact grid, cost, warnings."""
