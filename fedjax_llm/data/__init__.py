"""Text -> clients -> token batches."""

from .batches import Batch as Batch
from .batches import Batching as Batching
from .batches import all_windows as all_windows
from .batches import cohort_batches as cohort_batches
from .corpus import Corpus as Corpus
from .corpus import Split as Split
from .corpus import byte_corpus as byte_corpus
from .corpus import hold_out as hold_out
from .corpus import token_dtype as token_dtype
from .ngram import bigram_nats as bigram_nats
from .shakespeare import shakespeare as shakespeare
