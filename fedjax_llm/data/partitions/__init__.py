"""Partitions: ways to deal a pool of examples out to clients."""
