"""The dock *Normalization*, and its parts."""
