"""Arithmetic that codecs share: bits, blocks, rotations, flat vectors, bases, trellises."""
