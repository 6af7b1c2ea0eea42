"""Client data: read, dealt out to clients, tokenised, held out, and cut into batches."""

from .arrays import ArrayBatch, Arrays, from_arrays, masked_mean
from .batches import Batching, all_windows, cohort_batches, step_counts
from .contract import ClientData, Rows
from .hold_out import HoldOut, hold_out
from .ngram import bigram_nats
from .partitions.aside import reported_clients, tuning_clients
from .partitions.deal import by_key, dirichlet, iid, label_shards, log_normal, power_law
from .partitions.table import draw_partition, partition, partition_table
from .readers.chitchat import chitchat
from .readers.examples import Example, Examples, Fields, Reader, alpaca, pooled, sharegpt
from .readers.fedit import fedit, fedit_test
from .readers.files import csv, jsonl, parquet, table
from .readers.messages import Message
from .readers.prompted import (
    Pair,
    PairFields,
    Question,
    QuestionFields,
    alpaca_pairs,
    sharegpt_pairs,
)
from .readers.shakespeare import shakespeare
from .tokenisation.cache import open_corpus, save_corpus
from .tokenisation.chat import INSTRUCTIONS
from .tokenisation.choices import ChoiceBatch, Choices, tokenize_choices
from .tokenisation.corpus import Corpus, byte_corpus
from .tokenisation.labelled import Labelled, LabelledBatch, tokenize_labelled
from .tokenisation.pairs import PairBatch, Pairs, tokenize_pairs
from .tokenisation.tokenize import tokenize
from .tokenisation.tokens import token_dtype
from .tokenisation.windows import Batch

__all__ = [
    "INSTRUCTIONS",
    "ArrayBatch",
    "Arrays",
    "Batch",
    "Batching",
    "ChoiceBatch",
    "Choices",
    "ClientData",
    "Corpus",
    "Example",
    "Examples",
    "Fields",
    "HoldOut",
    "Labelled",
    "LabelledBatch",
    "Message",
    "Pair",
    "PairBatch",
    "PairFields",
    "Pairs",
    "Question",
    "QuestionFields",
    "Reader",
    "Rows",
    "all_windows",
    "alpaca",
    "alpaca_pairs",
    "bigram_nats",
    "by_key",
    "byte_corpus",
    "chitchat",
    "cohort_batches",
    "csv",
    "dirichlet",
    "draw_partition",
    "fedit",
    "fedit_test",
    "from_arrays",
    "hold_out",
    "iid",
    "jsonl",
    "label_shards",
    "log_normal",
    "masked_mean",
    "open_corpus",
    "parquet",
    "partition",
    "partition_table",
    "pooled",
    "power_law",
    "reported_clients",
    "save_corpus",
    "shakespeare",
    "sharegpt",
    "sharegpt_pairs",
    "step_counts",
    "table",
    "token_dtype",
    "tokenize",
    "tokenize_choices",
    "tokenize_labelled",
    "tokenize_pairs",
    "tuning_clients",
]
