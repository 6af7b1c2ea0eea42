"""The table of what messages leak, in the documents, is that of the rows."""

from pathlib import Path

from experiments import leakage

DOCUMENT = Path(__file__).parents[2] / "docs/privacy.md"


def test_the_table_in_the_documents_is_that_of_the_rows():
    rows = leakage.read_rows(leakage.OUT)
    assert len(rows) == len(leakage.GROUPS) * len(leakage.CODECS) * leakage.SEEDS
    assert "\n".join(leakage.table_of_means()) in DOCUMENT.read_text()
