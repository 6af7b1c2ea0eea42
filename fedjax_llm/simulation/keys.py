"""What a round's key is folded with beside the clients' numbers."""

SAMPLING, SERVER, DATA, FAULTS = (2**32 - purpose for purpose in (1, 2, 3, 4))
"""What a round's key is folded with beside the clients' numbers, which lie far below."""
