"""A linear model over Flower, with faults that the nodes' configuration orders."""
