"""The README's code runs as it stands."""

import re
from pathlib import Path

from fedjax_compression.codec import FACTORIES

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_composes_an_algorithm_and_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own text
    rounds = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rounds] == ["1", "2"]
    assert all(3 < float(row[1]) < 6 for row in rounds)
    assert rounds[0][2] == rounds[1][2]


def test_every_factory_is_in_the_table():
    for name in FACTORIES.keys() - {"identity"}:
        assert f"| `{name}(" in README, name
