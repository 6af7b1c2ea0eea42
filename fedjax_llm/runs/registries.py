"""What each text of a configuration may name, and plugins that add to it."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedjax_compression.registry import FACTORIES

from ..adapters.registry import ADAPTERS
from ..aggregators.registry import AGGREGATORS
from ..algorithms.registry import METHODS
from ..data.registry import DATA
from ..data.unseen import UNSEEN
from ..simulation import CLIENT_AXES
from ..simulation.conditions.registry import CONDITIONS
from ..tasks.registry import TASKS
from .optimizers import OPTIMIZERS


def names_by_field() -> Mapping[str, Mapping[str, Callable[..., Any]]]:
    """The factories that each field of `RunConfig` may name, registered ones among them."""
    return {
        "algorithm": {name: method.factory for name, method in METHODS.items()},
        "uplink, downlink": FACTORIES,
        "aggregate": AGGREGATORS,
        "client_axis": CLIENT_AXES,
        "client_optimizer, server_optimizer": OPTIMIZERS,
        "adapter": ADAPTERS,
        "task": TASKS,
        "data": DATA,
        "unseen": UNSEEN,
        **CONDITIONS,
    }


def summary_line(factory: Callable[..., Any]) -> str:
    """The first sentence of a factory's docstring, on one line."""
    paragraph = (inspect.getdoc(factory) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).split(". ")[0].rstrip(".")


def load_plugins(modules: Sequence[str]) -> None:
    """Import modules that register codecs, methods or data of your own.

    Args:
        modules: Names as `import` takes them, such as `mypackage.codecs`.

    Raises:
        ValueError: For a name that cannot be imported.

    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"plugin: expected a module that can be imported, got {name!r}: {error}."
            ) from None
