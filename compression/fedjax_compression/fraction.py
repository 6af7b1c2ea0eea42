"""How many entries a sparsifier sends."""


def check_fraction(fraction: float, *, who: str, name: str = "fraction") -> None:
    """Raise `ValueError` unless 0 < fraction <= 1."""
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ValueError(f"{who}: {name} must be above 0 and at most 1, got {fraction!r}.")


def count(fraction: float, entries: int) -> int:
    """max(1, round(fraction * entries)), of no entries none."""
    return min(max(1, round(fraction * entries)), entries)
