"""A linear model over Flower."""
