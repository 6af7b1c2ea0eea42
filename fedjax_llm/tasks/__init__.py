"""Tasks: model, adapter, loss and measures, built into what a run trains."""

from ..algorithm import Asked, Halves
from .classification import classification, label_accuracy
from .contract import Measure, Scores, Task
from .halves import halves
from .language_model import language_model
from .preference import margins, preference, preferred, with_reference

__all__ = [
    "Asked",
    "Halves",
    "Measure",
    "Scores",
    "Task",
    "classification",
    "halves",
    "label_accuracy",
    "language_model",
    "margins",
    "preference",
    "preferred",
    "with_reference",
]
