"""Client axes by name."""

from collections.abc import Callable

from .auto import Auto, auto
from .contract import ClientAxis
from .on_one_device import chunked, scan, vmap
from .sharded import sharded

CLIENT_AXES: dict[str, Callable[..., ClientAxis | Auto]] = {
    axis.__name__: axis for axis in (vmap, scan, chunked, sharded, auto)
}
"""The factory of every client axis, by its name."""
