"""The dock *Seamscope*, and its parts."""
