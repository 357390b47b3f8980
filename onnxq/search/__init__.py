"""Which layers hurt, and which of them to leave in float: sensitivity, and mixed precision to a budget."""
