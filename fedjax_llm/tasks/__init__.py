"""Model, adapter, data and loss, tied into what a run needs."""

from .language_model import language_model as language_model
from .task import Task as Task
