"""The step *Fix*, and its parts."""
