"""Model, adapter, data and loss, tied into what a run needs."""

from .classification import classification as classification
from .classification import head_only as head_only
from .classification import label_accuracy as label_accuracy
from .halves import Asked as Asked
from .halves import Halves as Halves
from .halves import halves as halves
from .language_model import language_model as language_model
from .preference import margins as margins
from .preference import preference as preference
from .preference import preferred as preferred
from .preference import with_reference as with_reference
from .task import Measure as Measure
from .task import Scores as Scores
from .task import Task as Task
