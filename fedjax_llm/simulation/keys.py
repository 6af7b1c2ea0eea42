"""Numbers folded into a round's key for purposes other than a client's."""

SAMPLING, SERVER, DATA, FAULTS = (2**32 - purpose for purpose in (1, 2, 3, 4))
"""For drawing the cohort, for the server, for batches, and for faults. Clients' own numbers are far
smaller, so that the two never collide."""
