"""Trackers by name."""

from collections.abc import Callable, Mapping

from .contract import Opener
from .tensorboard import tensorboard
from .trackio import trackio
from .wandb import wandb

TRACKERS: Mapping[str, Callable[..., Opener]] = {
    "tensorboard": tensorboard,
    "trackio": trackio,
    "wandb": wandb,
}
"""Every tracker that `track` can name."""
