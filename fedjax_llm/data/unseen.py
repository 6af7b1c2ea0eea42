"""Which clients are held out of training: a share, the last ones, or by name."""

import math
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from fedjax_compression.checks import check_kind

from ..checks import check_count, check_real

Unseen = Callable[[Sequence[str]], float | tuple[str, ...]]
"""`(names) -> clients`: of the names of all clients, those for `hold_out` to hold out, or a share
for it to draw."""


def share(share: float | int) -> Unseen:
    """Hold out a share, rounded down, drawn by the seed; 0 holds out none.

    Args:
        share: From 0 to below 1.

    Returns:
        The choice.

    Raises:
        ValueError: For a share out of range.

    Example:
        >>> from fedjax_llm.data.unseen import share
        >>> share(0.25)(["ann", "bob", "cyd", "dan"])
        0.25

    """
    check_real(share, who="share", name="share", at_least=0, below=1)
    return lambda names: float(share)


def last(count: int) -> Unseen:
    """Hold out the last clients in the order of their names.

    Args:
        count: How many, at least 1.

    Returns:
        The choice.

    Raises:
        ValueError: For a count below 1.

    Example:
        >>> from fedjax_llm.data.unseen import last
        >>> last(2)(["ann", "bob", "cyd", "dan"])
        ('cyd', 'dan')

    """
    check_count(count, who="last", name="count")
    return lambda names: tuple(sorted(names)[-count:])


def named(*names: str) -> Unseen:
    """Hold out the clients of these names.

    Args:
        names: At least one name.

    Returns:
        The choice.

    Raises:
        ValueError: For no name.

    Example:
        >>> from fedjax_llm.data.unseen import named
        >>> named("dan", "ann")(["ann", "bob", "cyd", "dan"])
        ('ann', 'dan')

    """
    for name in names:
        check_kind(name, str, who="named", name="names", expected="names of clients")
    if not names:
        raise ValueError("named: names: expected at least one client's name, got none.")
    return lambda everyone: tuple(sorted(set(names)))


def matching(pattern: str) -> Unseen:
    """Hold out the clients whose names match a pattern, such as "test_*".

    Args:
        pattern: `*` is any text, `?` any character, `[ab]` one of these; case counts.

    Returns:
        The choice, which raises `ValueError` where no client's name matches.

    Example:
        >>> from fedjax_llm.data.unseen import matching
        >>> matching("test_*")(["ann", "test_1", "test_2"])
        ('test_1', 'test_2')

    """
    check_kind(pattern, str, who="matching", name="pattern", expected="a pattern as text")

    def chosen(names: Sequence[str]) -> tuple[str, ...]:
        found = tuple(name for name in sorted(names) if fnmatchcase(name, pattern))
        if not found:
            raise ValueError(
                f"matching: pattern: expected one that a client's name matches, got {pattern!r}; "
                f"names are such as {names[0]!r}."
            )
        return found

    return chosen


def held_out_count(unseen: Unseen, names: Sequence[str]) -> int:
    """How many of these clients `hold_out` holds out for a choice."""
    chosen = unseen(names)
    return len(chosen) if isinstance(chosen, tuple) else floor_share(len(names), chosen)


def floor_share(count: int, share: float) -> int:
    """A share of a number, rounded down: .29 of 100 is 29."""
    return math.floor(count * share + 1e-9)


UNSEEN: dict[str, Callable[..., Unseen]] = {
    choice.__name__: choice for choice in (share, last, named, matching)
}
"""What the `unseen` of a run may name."""
