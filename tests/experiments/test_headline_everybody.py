"""The table of the study with the same clients in every round is that of its rows."""

from pathlib import Path

from experiments import headline_everybody

DOCUMENT = Path(__file__).parents[2] / "docs/measurements.md"


def test_the_table_in_the_documents_is_that_of_the_rows():
    lines = headline_everybody.table()
    configured = {(c.algorithm, c.uplink, c.client_optimizer) for c in headline_everybody.first}
    assert len(lines) == len(configured)
    assert "\n".join(lines) in DOCUMENT.read_text()
