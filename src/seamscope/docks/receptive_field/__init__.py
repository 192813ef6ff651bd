"""The dock *Receptive field*, and its parts."""
