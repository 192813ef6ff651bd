"""The dock *Tiled prediction*, and its parts."""
