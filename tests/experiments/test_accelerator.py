"""The check of an accelerator, where the only device is the CPU: it agrees with itself."""

import sys

import pytest

from experiments import accelerator
from fedjax_llm.bench import rounds


@pytest.mark.slow
def test_a_device_agrees_with_itself_and_all_three_tables_are_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["accelerator.py", "--quick"])
    monkeypatch.setattr(rounds, "product_peak", lambda dtype: 1e11)  # ten seconds
    assert accelerator.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("0.00e+00") == 2 + 2 * 3  # both precisions, three codecs
    assert "smallest" in printed
    assert "bits per entry" in printed


def test_what_is_too_far_or_no_number_ends_with_status_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["accelerator.py", "--quick"])
    monkeypatch.setattr(accelerator, "bench", lambda *_, **__: [])
    monkeypatch.setattr(accelerator, "CODECS", ("identity()",))
    monkeypatch.setattr(accelerator, "training", lambda quick: [])
    wrong = accelerator.Agreement("something", float("nan"), 1e-5)
    monkeypatch.setattr(accelerator, "messages", lambda *_: [wrong])
    assert accelerator.main() == 1
    assert "DIFFERS" in capsys.readouterr().out
