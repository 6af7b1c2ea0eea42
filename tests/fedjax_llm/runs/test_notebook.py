"""Runs in a notebook's kernel: interrupted, run twice and out of order."""

import json
import os
import signal
import threading
import time

import pytest
from nbclient.exceptions import CellExecutionError

from fedjax_llm.locks import locked
from tests.helpers.notebooks import environment, kernel, notebook, said

SCRIPT = """
# %%
import os
from dataclasses import replace
from fedjax_llm import DecoderConfig, RunConfig, frontier, results, train
os.getpid()

# %%
base = RunConfig(
    rounds=2, clients=2, local_steps=1, batch=1, seq=16, evaluate_rows=8,
    data="shakespeare(roles='hamlet/HAMLET, macbeth/MACBETH, othello/IAGO')",
    decoder=DecoderConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1),
)

# %%
rows = frontier(base, ["identity()", "eden(bits=1)", "eden(bits=2)"], out="sweep")

# %%
results("sweep")["config.uplink"].tolist()

# %%
row = train(replace(base, rounds=4000), out="one", checkpoint_every=1000)

# %%
row = train(replace(base, rounds=rounds), out="one", resume=True)
row["rounds"]

# %%
from fedjax_llm.runs.live import in_notebook, live_progress
with live_progress("eden(bits=1)", rounds=2) as show:
    show({"train_nats_per_byte": 3.0, "uplink_bytes": 2**20})
    display(in_notebook())
"""


class Cells:
    """A kernel, whose cells are run by number, in any order and again."""

    def __init__(self, client):
        self.client = client
        self.seen = []

    def run(self, number):
        cell = self.client.nb.cells[number]
        self.client.execute_cell(cell, number)
        return cell

    def value(self, number):
        *_, last = self.run(number).outputs
        return last.data["text/plain"]

    def error(self, number):
        with pytest.raises(CellExecutionError) as ended:
            self.run(number)
        return ended.value.ename, ended.value.evalue

    def interrupted(self, number, pid, ready, times=1):
        """Run a cell that is sent SIGINT, as a notebook's stop button does, once it is ready."""

        def interrupt():
            while not ready():
                time.sleep(0.005)
            for _ in range(times):
                os.kill(pid, signal.SIGINT)
                time.sleep(0.3)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            return self.error(number)
        finally:
            thread.join()


def lines(path):
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def assert_whole_and_free(folder, name):
    """Every line is a row, no draft is left, and another process can have the folder."""
    assert all(json.loads(line) and line.endswith("\n") for line in lines(folder / name))
    assert not list(folder.rglob("*.part"))
    with locked(folder):
        pass


@pytest.mark.slow
def test_cells_that_are_interrupted_run_twice_or_out_of_order_leave_whole_folders(tmp_path):
    client = kernel(notebook(SCRIPT.strip()), tmp_path)
    with client.setup_kernel(env=environment()):
        cells = Cells(client)
        setup, config, sweep, frame, run, resume, shown = range(7)
        pid = int(cells.value(setup))
        assert cells.error(frame)[0] == "ValueError"  # before the sweep
        cells.run(config)

        first = tmp_path / "sweep/results.jsonl"
        assert (
            cells.interrupted(sweep, pid, lambda: len(lines(first)) > 0)[0] == "KeyboardInterrupt"
        )
        assert 1 <= len(lines(first)) < 3
        assert_whole_and_free(tmp_path / "sweep", "results.jsonl")
        kept = lines(first)
        cells.run(sweep)
        assert lines(first)[: len(kept)] == kept
        after = first.read_bytes()
        cells.run(sweep)
        assert first.read_bytes() == after
        assert cells.value(frame) == "['identity()', 'eden(bits=1)', 'eden(bits=2)']"

        rounds = tmp_path / "one/rounds.jsonl"
        name, why = cells.interrupted(run, pid, lambda: len(lines(rounds)) > 1)
        count = len(lines(rounds))
        assert name == "KeyboardInterrupt"
        assert why == (
            f"stopped by SIGINT after round {count} of 4000; train(..., out='one', resume=True) "
            "continues it."
        )
        assert "finishing the current round and writing a checkpoint" in said(client.nb.cells[run])
        assert_whole_and_free(tmp_path / "one", "rounds.jsonl")
        name, why = cells.error(run)  # run twice
        assert name == "ValueError"
        assert "one: expected a folder without a run" in why
        assert "resume=True continues it" in why

        client.nb.cells[resume].source = f"rounds = 10**6\n{client.nb.cells[resume].source}"
        ready = lambda: len(lines(rounds)) > count + 1  # noqa: E731
        assert cells.interrupted(resume, pid, ready, times=2)[0] == "KeyboardInterrupt"
        assert_whole_and_free(tmp_path / "one", "rounds.jsonl")
        done = len(lines(rounds)) + 1
        client.nb.cells[resume].source = f"rounds = {done}\n{SCRIPT.split('# %%')[6]}"
        assert cells.value(resume) == str(done)
        numbers = [json.loads(line)["round"] for line in lines(rounds)]
        assert numbers == list(range(1, done + 1))

        *_, line, yes = cells.run(shown).outputs
        assert yes.data["text/plain"] == "True"
        assert line.data["text/plain"] == ""  # gone at the end
        assert int(cells.value(setup)) == pid  # the kernel of the beginning
