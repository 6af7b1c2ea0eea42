"""Trackers: the numbers of a run's rows in TensorBoard, Weights & Biases or Trackio."""

from .contract import Opener, TrackedRun, Tracker
from .registry import TRACKERS
from .tensorboard import tensorboard
from .track import Tracking, openers, tracking
from .trackio import trackio
from .wandb import wandb

__all__ = [
    "TRACKERS",
    "Opener",
    "TrackedRun",
    "Tracker",
    "Tracking",
    "openers",
    "tensorboard",
    "tracking",
    "trackio",
    "wandb",
]
