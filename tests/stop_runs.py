"""Commands that are sent SIGINT or SIGTERM at random moments.

    python -m tests.stop_runs --stops 30

A command must end within seconds with status 130 or 143 and one line on standard error (a run of
rounds with two: it finishes its round first), and leave whole rows. A moment is some seconds after
the start, or after a row. Says what went wrong, and ends with status 1 where anything did.
"""

import argparse
import json
import random
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import report_rows
from tests.helpers.processes import python
from tests.kill_runs import RUN

FIRST = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""What a process runs first, as it may have been started to ignore SIGINT."""
COMMANDS = {
    "train": (("train", *RUN, "--rounds", "500"), "rounds.jsonl"),
    "frontier": (("frontier", *RUN[:14], "--seeds", *map(str, range(99))), "results.jsonl"),
    "study": (("study", "tests/helpers/a_study.py"), "tuning.jsonl"),
    "codecs": (("codecs", "--entries", "65536"), "codecs.jsonl"),
    "bench": (("bench", "--rungs", "middle"), "bench.json"),
    "report": (("report", "RUNS"), "none"),
    "help": (("train", "--help"), "none"),
}
"""Arguments, and the file that the rows go to. RUNS is a folder with the rows of a large sweep;
a report of them takes some seconds, and no other command but help ends by itself in time."""
SEEDS = 500
"""Seeds of the sweep that is reported, with four codecs each."""
SECONDS = 20.0
"""Most time that a command may take to end: a run of rounds finishes its round first."""


@contextmanager
def started(*args):
    """A command in a process and a group of its own, which does not outlive the context."""
    script = f"{FIRST}\nsys.argv[1:] = {args!r}\nfrom fedjax_llm.cli import main\nmain()"
    process = python("-c", script, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def stop(process, which):
    """Send a signal; the status, standard error and the seconds until the end."""
    started = time.monotonic()
    process.send_signal(which)
    try:
        _, error = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        _, error = process.communicate()
    return process.returncode, error, time.monotonic() - started


def fault(name, which, ended, rows):
    """What is wrong with how a command ended; empty for nothing."""
    status, error, seconds = ended
    if status == 0:  # it was done
        return ""
    if status != 128 + which:
        return f"status {status}, {error[-300:]!r}"
    lines = error.splitlines()
    asked = f"fedjax-llm: {which.name}: "
    if name == "train" and lines[0].startswith((asked + "finishing", asked + "ending")):
        lines.pop(0)
    if len(lines) != 1 or not lines[0].startswith(f"fedjax-llm: stopped by {which.name}"):
        return f"said {error[-300:]!r}"
    if seconds > SECONDS:
        return f"took {seconds:.1f} s"
    if rows.exists() and rows.suffix == ".jsonl":
        text = rows.read_text()
        if text and not text.endswith("\n"):
            return "a row is not whole"
        for line in text.splitlines():
            json.loads(line)
    return ""


def stopped_somewhere(draw, folder):
    """One command, stopped at a moment that is drawn: what was done, and what is wrong with it."""
    name = draw.choice(list(COMMANDS))
    which = draw.choice([signal.SIGINT, signal.SIGTERM])
    args, file = COMMANDS[name]
    out, runs = folder / "out", folder / "runs"
    if name == "report":
        report_rows.write(runs, report_rows.sweep(seeds=range(SEEDS)))
    args = [str(runs) if each == "RUNS" else each for each in args]
    wait = draw.choice([0.3, 1.0, 3.0, 6.0, 12.0, 25.0]) * (0.5 + draw.random())
    with started(*args, *(() if name == "help" else ("--out", str(out)))) as process:
        time.sleep(wait)
        ended = stop(process, which)
    what = f"{name} stopped by {which.name} after {wait:.1f} s"
    return what, fault(name, which, ended, out / file) or half_written(out)


def half_written(page):
    """What is wrong with the page of a report; empty for nothing, and where there is none."""
    if not page.is_file() or page.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        return ""
    return "a page is not whole"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stops", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)  # noqa: S311 - the moments need not be secret
    found = 0
    for number in range(args.stops):
        with tempfile.TemporaryDirectory() as folder:
            what, wrong = stopped_somewhere(draw, Path(folder))
        print(f"{number + 1}/{args.stops} {what}: {wrong or 'as it should'}", flush=True)
        found += bool(wrong)
    print(f"{found} of {args.stops} commands did not end as they should")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
