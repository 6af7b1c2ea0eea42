"""The tables of the headline studies, in the documents, are those of the rows."""

import importlib
from pathlib import Path

import pytest

from experiments import headline_tables

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
