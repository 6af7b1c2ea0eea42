"""A linear model over Flower, one of whose clients misbehaves."""
