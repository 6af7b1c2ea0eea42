"""The table of the headline study, in the documents, is that of its rows."""

from pathlib import Path

from experiments import headline_partial

DOCUMENT = Path(__file__).parents[2] / "docs/measurements.md"


def test_the_table_in_the_documents_is_that_of_the_rows():
    lines = headline_partial.table()
    assert len(lines) == len(headline_partial.UPLINKS)
    assert "\n".join(lines) in DOCUMENT.read_text()
