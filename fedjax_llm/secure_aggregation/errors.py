"""The error of a message or a round that secure aggregation refuses."""


class SecureAggregationError(ValueError):
    """Raised for a message that no honest party sends, and for a round that cannot be completed.

    Whoever raises it in a round reveals nothing more in that round.
    """
