"""Ways to train over many owners, each a `FederatedAlgorithm`."""

from .fed_avg import fed_avg as fed_avg
