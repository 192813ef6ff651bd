"""What results say: in a terminal, in docks, and as pages with figures that stand alone."""
