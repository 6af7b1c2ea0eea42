"""The tables of the studies of attacks and of epsilon are those of their rows."""

from pathlib import Path

import pytest

from experiments import attack_defence, attack_finetune, unsafe_finetune
from fedjax_llm.runs import canonical
from fedjax_llm.runs.results import read_rows

DOCUMENT = Path(__file__).parents[2] / "docs/privacy.md"


def ran_as_asked(module):
    """Whether the rows of a study are its configurations, each with the seeds 0, 1 and 2."""
    fields = ("attack", "aggregate", "uplink")
    rows = read_rows(module.ROWS)
    ran = [(*(row["config"][field] for field in fields), row["seed"]) for row in rows]
    asked = [canonical(config) for config in module.configs]
    wanted = {(*(getattr(c, field) for field in fields), seed) for c in asked for seed in range(3)}
    return len(ran) == len(wanted) and set(ran) == wanted


def test_the_table_of_attacks_is_that_of_the_rows_and_has_every_cell():
    assert "\n".join(attack_defence.table()) in DOCUMENT.read_text()
    assert ran_as_asked(attack_defence)


def test_the_table_of_attacks_on_fine_tuning_is_that_of_the_rows_and_has_every_cell():
    assert "\n".join(attack_finetune.table()) in DOCUMENT.read_text()
    assert ran_as_asked(attack_finetune)


def test_the_table_of_unsafe_instructions_is_that_of_the_rows_and_has_every_cell():
    assert "\n".join(unsafe_finetune.table()) in DOCUMENT.read_text()
    assert ran_as_asked(unsafe_finetune)


def test_the_table_of_epsilon_is_that_of_the_rows():
    pytest.importorskip("dp_accounting")
    from experiments import epsilon  # noqa: PLC0415 - its noise is calibrated when it is read

    lines = epsilon.table()
    assert "\n".join(lines) in DOCUMENT.read_text()
    assert len(lines) == len(epsilon.configs)
