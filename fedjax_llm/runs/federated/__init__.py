"""A run over Flower on this machine, by its configuration."""
