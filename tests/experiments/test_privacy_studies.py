"""The tables of the studies of attacks and of epsilon are those of their rows."""

from pathlib import Path

import pytest

from experiments import attack_defence, attack_finetune
from fedjax_llm.runs import canonical
from fedjax_llm.runs.results import read_rows

DOCUMENT = Path(__file__).parents[2] / "docs/privacy.md"


def texts(config):
    return config["attack"], config["aggregate"], config["uplink"]


def test_the_table_of_attacks_is_that_of_the_rows_and_has_every_cell():
    assert "\n".join(attack_defence.table()) in DOCUMENT.read_text()
    rows = read_rows(attack_defence.ROWS)
    ran = [texts(row["config"]) for row in rows]
    asked = [canonical(config) for config in attack_defence.configs]
    asked = {(config.attack, config.aggregate, config.uplink) for config in asked}
    assert set(ran) == asked
    assert len(ran) == len(asked) * len({row["seed"] for row in rows})


def test_the_table_of_attacks_on_fine_tuning_is_that_of_the_rows_and_has_every_cell():
    assert "\n".join(attack_finetune.table()) in DOCUMENT.read_text()
    ran = [texts(row["config"]) for row in read_rows(attack_finetune.ROWS)]
    asked = [canonical(config) for config in attack_finetune.configs]
    assert sorted(map(str, ran)) == sorted(
        str((config.attack, config.aggregate, config.uplink)) for config in asked
    )


def test_the_table_of_epsilon_is_that_of_the_rows():
    pytest.importorskip("dp_accounting")
    from experiments import epsilon  # noqa: PLC0415 - its noise is calibrated when it is read

    lines = epsilon.table()
    assert "\n".join(lines) in DOCUMENT.read_text()
    assert len(lines) == len(epsilon.configs)
