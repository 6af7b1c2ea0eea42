"""The table of the study with the same clients in every round is that of its rows."""

from pathlib import Path

from experiments import headline_everybody

DOCUMENT = Path(__file__).parents[2] / "docs/measurements.md"


def test_the_table_in_the_documents_is_that_of_the_rows():
    lines = headline_everybody.table()
    fields = ("algorithm", "uplink", "client_optimizer", "server_optimizer")
    first = headline_everybody.first
    configured = {tuple(getattr(config, field) for field in fields) for config in first}
    assert len(lines) == len(configured)
    assert "\n".join(lines) in DOCUMENT.read_text()
