"""The dock *Seams*, and its parts."""
