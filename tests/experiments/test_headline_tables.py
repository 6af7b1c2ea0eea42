"""The tables of the headline studies, in the documents, are those of the rows."""

import importlib
from pathlib import Path

import pytest

from experiments import headline_tables
from fedjax_llm.runs.results import read_rows

DOCUMENT = Path(__file__).parents[2] / "docs/measurements.md"


@pytest.mark.parametrize("study", headline_tables.STUDIES)
def test_the_table_in_the_documents_is_that_of_the_rows(study):
    lines = headline_tables.table(study)
    fields = ("algorithm", "uplink", "client_optimizer", "server_optimizer")
    parts = headline_tables.STUDIES[study]
    first = [c for part in parts for c in importlib.import_module(f"experiments.{part}").first]
    configured = {tuple(getattr(config, field) for field in fields) for config in first}
    assert len(lines) == len(configured) == len(first)
    assert "\n".join(lines) in DOCUMENT.read_text()


def test_what_the_document_says_of_the_third_setting_of_the_server():
    """The best candidate with it, less the best with the other two, on the clients set aside."""
    best: dict[str, dict[bool, float]] = {}
    for row in read_rows(headline_tables.RESULTS / "headline_partial/tuning.jsonl"):
        config = row["config"]
        if config["client_optimizer"].startswith("adam") and "feedback" not in row["codec"]:
            of_codec = best.setdefault(row["codec"], {True: 9.0, False: 9.0})
            third = config["server_optimizer"].startswith("sgd(0.8")
            of_codec[third] = min(of_codec[third], row["heldout_nats_per_byte"])
    lower = {codec: each[False] - each[True] for codec, each in best.items()}
    assert len(lower) == 8
    assert min(lower.values()) > 0
    named = ("identity()", "preconditioned(trellis_fixed(bits=0.1))", "eden(bits=0.1)")
    assert [round(lower[codec], 3) for codec in named] == [0.009, 0.044, 0.037]


@pytest.mark.parametrize("study", headline_tables.STUDIES)
def test_all_rows_of_a_table_are_of_one_task(study):
    """A study's file stands alone, so that those of one table repeat it."""
    parts = [
        importlib.import_module(f"experiments.{part}") for part in headline_tables.STUDIES[study]
    ]
    assert all(part.BASE == parts[0].BASE for part in parts)
    assert all(part.study.tune.share == parts[0].study.tune.share for part in parts)


@pytest.mark.parametrize("study", headline_tables.STUDIES)
def test_the_bytes_at_equal_loss_in_the_documents_are_those_of_the_rows(study):
    assert (lines := headline_tables.at_equal_loss(study))
    assert all(line in DOCUMENT.read_text() for line in lines)
