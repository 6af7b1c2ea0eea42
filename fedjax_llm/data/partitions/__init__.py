"""Partitions: a pool of examples dealt out to clients."""
