"""The README's code runs as it stands."""

import re
from pathlib import Path

from fedjax_compression.registry import FACTORIES

from fedjax_llm.algorithms.registry import METHODS as ALGORITHMS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CODECS = (ROOT / "compression/README.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_composes_an_algorithm_and_runs(capsys):
    code, _ = EXAMPLES
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own text
    rounds = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rounds] == ["1", "2"]
    assert all(3 < float(row[1]) < 6 for row in rounds)
    first, second = (int(row[2]) for row in rounds)
    assert abs(first - second) < 0.1 * first  # supports are entropy-coded


def test_the_example_tunes_a_checkpoint_and_writes_an_adapter(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, code = EXAMPLES
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own text
    rounds = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rounds] == ["1", "2"]
    assert all(2 < float(row[1]) < 8 for row in rounds)
    written = {path.name for path in (tmp_path / "runs/adapter").iterdir()}
    assert written == {"adapter_config.json", "adapter_model.safetensors"}


def test_every_factory_is_in_the_table():
    for name in FACTORIES:
        assert f"\n| `{name}(" in CODECS, name


def test_every_method_says_what_travels():
    for name in ALGORITHMS:
        rows = re.findall(rf"\n(\| `{name}[(`][^\n]*\|[^\n]*\|[^\n]*\|[^\n]*\|[^\n]*\|)\n", README)
        assert any(all(cell.strip() for cell in row.split("|")[1:-1]) for row in rows), name


def test_the_example_of_the_compression_package_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", CODECS, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - our own text
    sent, plain = map(int, capsys.readouterr().out.split())
    assert sent * 50 < plain
