"""Pages and figures that stand alone."""
