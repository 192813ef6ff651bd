"""The dock *Labels*: objects of a prediction, live, corrected by hand, checked at seams."""
