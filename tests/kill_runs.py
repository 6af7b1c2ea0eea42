"""Runs killed at random moments and resumed, against the same run left alone.

    python -m tests.kill_runs --kills 30

Each kill is SIGKILL, some time after a round that is drawn by the seed: during a round, its row or
its checkpoint. Says what differs, and ends with status 1 where anything does.
"""

import argparse
import json
import random
import signal
import tempfile
import time
from pathlib import Path

from tests.helpers.processes import python

ROLES = "hamlet/HAMLET, hamlet/HORATIO, macbeth/MACBETH, macbeth/BANQUO"
RUN = [
    *("--clients", "2", "--local-steps", "2", "--batch", "2", "--seq", "32"),
    *("--hidden-size", "16", "--intermediate-size", "24", "--num-hidden-layers", "1"),
    *("--num-attention-heads", "2", "--num-key-value-heads", "1"),
    *("--data", f"shakespeare(roles='{ROLES}')", "--server-optimizer", "adam(0.01)"),
    *("--uplink", "error_feedback(chain(top_k(fraction=0.1), eden(bits=2)))"),
    *("--faults", "faults(dropout=0.2, silence=0.1, failure=0.1, partial=0.3)"),
    *("--link", "link(uplink=1e5, downlink=1e6, latency=0.05, step=0.1)"),
    *("--deadline", "deadline(first=2, seconds=60)"),
    *("--availability", "diurnal(share=0.7, period=5)"),
]


def start(out, *flags, code=""):
    """`fedjax-llm train` as a process of its own; `code` runs before it."""
    args = ["train", *RUN, "--out", str(out), *flags]
    script = f"{code}\nfrom fedjax_llm.cli import main\nmain({args!r})"
    return python("-c", script)


def finish(process):
    """Its status and what it said on standard error."""
    _, error = process.communicate(timeout=600)
    return process.returncode, error


def rounds_of(out):
    """Whole rows of rounds.jsonl."""
    path = Path(out) / "rounds.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_round(process, out, number):
    """Return when so many rows are there, or the process is over."""
    while process.poll() is None and rounds_of(out) < number:
        time.sleep(0.01)


def kill_and_resume(out, *, rounds, kills, seed, every, moment=lambda random: random.random() / 5):
    """A run that is killed so often; how many of the kills met it running."""
    draw = random.Random(seed)  # noqa: S311 - the moments need not be secret
    flags = ("--resume", "--rounds", str(rounds), "--checkpoint-every", str(every))
    met = 0
    for _ in range(kills):
        process = start(out, *flags)
        wait_for_round(process, out, min(rounds, rounds_of(out) + draw.randint(0, every + 1)))
        time.sleep(moment(draw))
        process.send_signal(signal.SIGKILL)
        met += finish(process)[0] == -signal.SIGKILL
    status, error = finish(start(out, *flags))
    assert status == 0, error
    return met


def differences(one, other):
    """What of two finished runs is not the same."""
    one, other = Path(one), Path(other)
    found = []
    for name in ("rounds.jsonl", "rounds.csv"):
        if (one / name).read_bytes() != (other / name).read_bytes():
            found.append(name)
    summaries = [json.loads((out / "summary.json").read_text()) for out in (one, other)]
    return found + [
        key for key in summaries[0] if key != "seconds" and summaries[0][key] != summaries[1][key]
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rounds = 2 * args.kills
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        status, error = finish(start(alone, "--rounds", str(rounds)))
        assert status == 0, error
        met = kill_and_resume(killed, rounds=rounds, kills=args.kills, seed=args.seed, every=2)
        found = differences(alone, killed)
        digest = json.loads((killed / "summary.json").read_text())["digest"]
    print(f"{met} of {args.kills} kills met the run, of {rounds} rounds; digest {digest}")
    print("differences from the run left alone:", ", ".join(found) or "none")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
