"""The notebook whose federation is real: its two runs have the same parameters and bytes."""

import pytest

from tests.helpers.notebooks import said
from tests.notebooks import SCRIPTS, executed


@pytest.mark.slow
def test_the_federation_has_the_numbers_of_the_simulation(tmp_path):
    (script,) = [script for script in SCRIPTS if script.stem == "simulation_to_federation"]
    cells = [c for c in executed(script, tmp_path).cells if c.cell_type == "code"]
    printed = "".join(said(cell) for cell in cells)
    assert printed.count("equal: True") == 3
    assert "round 2: " in printed
