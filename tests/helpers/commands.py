"""The command as tests type it."""

import json

import pytest

from fedjax_llm.cli.main import main

ROLES = ["hamlet/HAMLET", "hamlet/HORATIO", "macbeth/MACBETH", "macbeth/BANQUO"]


SMALL = [
    *("--rounds", "2", "--clients", "2", "--local-steps", "2", "--batch", "2", "--seq", "32"),
    *("--hidden-size", "16", "--intermediate-size", "24", "--num-hidden-layers", "1"),
    *("--num-attention-heads", "2", "--num-key-value-heads", "1"),
    *("--data", f"shakespeare(roles='{', '.join(ROLES)}')"),
]


def train(out, *more):
    main(["train", *SMALL, "--out", str(out), *more])
    return json.loads((out / "summary.json").read_text())


def refused(capsys, *args):
    """The one line that bad input is answered with."""
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error
