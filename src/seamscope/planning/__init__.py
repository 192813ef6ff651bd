"""What was asked becomes tiles in an order, with their costs."""
