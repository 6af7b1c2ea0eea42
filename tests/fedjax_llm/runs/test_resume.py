"""What a run that was stopped leaves, and that it goes on as if it had not been."""

import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import fed_avg
from fedjax_llm.cli import main
from fedjax_llm.data import Batching
from fedjax_llm.runs import folder as run_folder
from fedjax_llm.simulation import ClientStore, Snapshot, StoreRows, chunked, scan, simulate, vmap
from fedjax_llm.simulation.run_checkpoints import RunCheckpoints
from tests import kill_runs

ROOT = Path(__file__).parents[3]

# What Orbax was reading or writing goes on in its threads after it has failed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
FOUR = ("--rounds", "4")


def train(out, *flags):
    main(["train", *kill_runs.RUN, "--out", str(out), *flags])
    return json.loads((out / "summary.json").read_text())


def refused(capsys, *args):
    with pytest.raises(SystemExit) as ended:
        train(*args)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    train(out, *FOUR, "--checkpoint-every", "2")
    return out


def stopped(out, monkeypatch, *, after, by=signal.SIGTERM, every=10):
    """A run that is sent a signal when a round's row has been written."""
    append = run_folder.append_row

    def and_signal(path, row):
        append(path, row)
        if row["round"] == after:
            os.kill(os.getpid(), by)

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "append_row", and_signal)
        with pytest.raises(SystemExit) as ended:
            train(out, *FOUR, "--checkpoint-every", str(every), "--resume")
    return ended.value.code


@pytest.mark.slow
def test_killed_anywhere_a_run_ends_as_if_left_alone(tmp_path):
    """SIGKILL in processes of their own; `make kill` does it thirty times."""
    left, killed = tmp_path / "left", tmp_path / "killed"
    assert kill_runs.finish(kill_runs.start(left, "--rounds", "8"))[0] == 0
    assert kill_runs.kill_and_resume(killed, rounds=8, kills=4, seed=1, every=1) >= 3
    assert kill_runs.differences(left, killed) == []
    rows = [json.loads(line) for line in (killed / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == list(range(1, 9))


@pytest.mark.slow
def test_a_signal_ends_with_a_checkpoint_of_the_running_round(alone, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    assert stopped(out, monkeypatch, after=3) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert f"stopped by SIGTERM after round 3 of 4; --resume --out {out} continues it." in said
    assert (out / "checkpoints/3").is_dir()
    assert not (out / "summary.json").exists()
    train(out, *FOUR, "--resume")
    assert kill_runs.differences(alone, out) == []


@pytest.mark.slow
def test_rows_after_the_checkpoint_are_made_again_once(alone, tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert stopped(out, monkeypatch, after=2, by=signal.SIGINT) == 128 + signal.SIGINT
    with (out / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3}\n{"round": 4, "upl')
    train(out, *FOUR, "--resume")
    assert kill_runs.differences(alone, out) == []


@pytest.mark.slow
def test_auto_says_what_it_found_and_a_resumed_run_keeps_it(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(kill_runs, "RUN", [*kill_runs.RUN, "--client-axis", "auto()"])
        stopped(tmp_path, monkeypatch, after=1)
        said = capsys.readouterr().err
        found = json.loads((tmp_path / "run.json").read_text())["auto"]
        assert f"auto() is {found} (scan() " in said
        train(tmp_path, *FOUR, "--resume")
        assert "auto() is" not in capsys.readouterr().err
        again = tmp_path / "again"
    train(again, *FOUR, "--client-axis", found)
    one, other = (json.loads((o / "summary.json").read_text()) for o in (tmp_path, again))
    assert one["digest"] == other["digest"]
    assert one["config"]["client_axis"] == "auto()"


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(alone, capsys):
    before = {path: path.read_bytes() for path in alone.rglob("*") if path.is_file()}
    summary = train(alone, *FOUR, "--resume")
    assert summary["digest"] in capsys.readouterr().out
    assert {path: path.read_bytes() for path in alone.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rounds", "3"), "rounds: expected at least 4, which the run has done, got 3"),
        ((*FOUR, "--seed", "1"), "seed: expected 0, as in the run in "),
        ((*FOUR, "--hidden-size", "32"), "hidden_size: expected 16, as in the run in "),
        ((*FOUR, "--uplink", "eden(bits=1)"), "uplink: expected 'error_feedback(chain(top_k("),
        ((*FOUR, "--checkpoint-every", "0"), "checkpoint_every: expected at least 1, got 0"),
    ],
)
def test_another_configuration_is_refused_by_its_field(alone, capsys, flags, message):
    assert message in refused(capsys, alone, "--resume", *flags)


def test_a_run_of_which_nothing_is_known_is_refused(tmp_path, capsys):
    (tmp_path / "rounds.jsonl").write_text('{"round": 1}\n')
    assert "expected run.json" in refused(capsys, tmp_path, *FOUR, "--resume")


@pytest.mark.slow
def test_rows_that_were_taken_out_are_missed(tmp_path, monkeypatch, capsys):
    stopped(tmp_path, monkeypatch, after=3)
    (tmp_path / "rounds.jsonl").write_text("")
    error = refused(capsys, tmp_path, *FOUR, "--resume")
    assert "expected the rows of rounds 1 to 3, as the checkpoint is of round 3, got 0" in error


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def largest(folder):
    """But for the file that only says that the others are there, as long as its path is."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "commit_success.txt")
    return max(files, key=lambda p: p.stat().st_size)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(alone, tmp_path, monkeypatch):
    stopped(tmp_path, monkeypatch, after=3, every=2)
    cut(largest(tmp_path / "checkpoints/3/state"))
    with pytest.warns(UserWarning, match="checkpoints/3: expected a whole checkpoint"):
        train(tmp_path, *FOUR, "--resume")
    assert (tmp_path / "checkpoints/damaged-3").is_dir()
    assert kill_runs.differences(alone, tmp_path) == []


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    flags = ("--rounds", "500", "--checkpoint-every", "1", "--resume")
    first = kill_runs.start(tmp_path, *flags)
    kill_runs.wait_for_round(first, tmp_path, 1)
    status, error = kill_runs.finish(kill_runs.start(tmp_path, *flags))
    assert status == 2
    assert "expected a folder that no other run writes to, got one in use" in error
    assert first.poll() is None
    first.kill()
    kill_runs.finish(first)
    again = kill_runs.start(tmp_path, *flags)
    kill_runs.wait_for_round(again, tmp_path, kill_runs.rounds_of(tmp_path) + 2)
    assert again.poll() is None
    again.terminate()
    assert kill_runs.finish(again)[0] == 128 + signal.SIGTERM


STATE = {"a": jnp.ones((40, 500)), "b": (jnp.zeros(3, jnp.bfloat16), jr.key(7)), "c": jnp.zeros(0)}
CLIENT = {"residual": jnp.zeros((2, 3)), "rounds": jnp.zeros((), jnp.int32), "none": jnp.zeros(0)}


def some_progress(number):
    rng = np.random.default_rng(number)
    state = {
        "a": jnp.asarray(rng.normal(size=(40, 500)), jnp.float32),
        "b": (jnp.asarray(rng.normal(size=3), jnp.bfloat16), jr.key(number)),
        "c": jnp.zeros(0),
    }
    store = ClientStore(CLIENT)
    ids = np.sort(rng.permutation(99)[:5])
    rows = {
        "residual": rng.normal(size=(5, 2, 3)).astype(np.float32),
        "rounds": rng.integers(9, size=5).astype(np.int32),
        "none": np.zeros((5, 0), np.float32),
    }
    store.scatter(ids, rows)
    return Snapshot(number, state, store.rows())


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert jax.dtypes.result_type(a) == jax.dtypes.result_type(b)
        np.testing.assert_array_equal(bits(a), bits(b))


def bits(leaf):
    is_key = jnp.issubdtype(jax.dtypes.result_type(leaf), jax.dtypes.prng_key)
    return np.asarray(jr.key_data(leaf) if is_key else leaf)


def test_a_checkpoint_gives_back_every_bit_and_the_last_few_are_kept(tmp_path):
    with RunCheckpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(STATE, CLIENT) is None
        for number in (1, 2, 3):
            checkpoints.save(some_progress(number), {"seconds": number})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    with RunCheckpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(STATE, CLIENT)
    assert restored.notes == {"seconds": 3}
    assert_same(restored.snapshot, some_progress(3))


@pytest.mark.parametrize("damage", [cut, turn_a_bit])
@pytest.mark.parametrize("item", ["state", "about"])
def test_damage_anywhere_is_noticed(tmp_path, damage, item):
    with RunCheckpoints(tmp_path) as checkpoints:
        for number in (1, 2):
            checkpoints.save(some_progress(number), {"seconds": number})
    damage(largest(tmp_path / "2" / item))
    with RunCheckpoints(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match="2: expected a whole checkpoint"):
            restored = checkpoints.restore(STATE, CLIENT)
        assert_same(restored.snapshot, some_progress(1))
        checkpoints.save(some_progress(2), {"seconds": 2})
    with RunCheckpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(STATE, CLIENT).snapshot, some_progress(2))


def test_no_checkpoint_at_all_is_kept_by_none():
    with pytest.raises(ValueError, match="keep: expected an integer at least 1, got 0"):
        RunCheckpoints(Path("nowhere"), keep=0)
    assert not Path("nowhere").exists()


def written(checkpoints, number):
    checkpoints.save(some_progress(number), {})
    checkpoints.wait()


def not_written(folder):
    """The error of a second checkpoint, for which there is no room."""
    with pytest.raises(OSError, match="the checkpoint of round 2 could not be written") as ended:
        written(RunCheckpoints(folder), 2)
    return str(ended.value)


def assert_only_the_first_is_there(folder):
    assert [path.name for path in folder.iterdir() if path.name.isdigit()] == ["1"]
    with RunCheckpoints(folder) as checkpoints:
        assert_same(checkpoints.restore(STATE, CLIENT).snapshot, some_progress(1))


@pytest.fixture
def files_of_at_most():
    """A limit on how large a file of this process may grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:  # noqa: S603
        pytest.skip("needs leave to mount a file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)  # noqa: S603, S607


def test_a_checkpoint_that_cannot_be_written_says_why_and_the_last_one_opens(
    tmp_path, files_of_at_most
):
    with RunCheckpoints(tmp_path) as checkpoints:
        written(checkpoints, 1)
    files_of_at_most(20_000)
    error = not_written(tmp_path)
    files_of_at_most(resource.RLIM_INFINITY)
    assert "File too large" in error
    assert error.endswith("; the last good one is of round 1.")
    assert_only_the_first_is_there(tmp_path)


def test_a_draft_that_a_write_left_behind_is_gone_after_the_next_opening(tmp_path):
    with RunCheckpoints(tmp_path) as checkpoints:
        written(checkpoints, 1)
    draft = tmp_path / "2.orbax-checkpoint-tmp" / "state"
    draft.mkdir(parents=True)
    (draft / "array").write_bytes(b"half")
    assert_only_the_first_is_there(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_the_reason_is_found_before_the_specification_of_an_array(tmp_path, monkeypatch):
    checkpoints = RunCheckpoints(tmp_path)

    def fail():
        reason = f"{'a path ' * 40}to file 11: File too large [os_error_code='27']"
        raise ValueError(f"{reason} [tensorstore_spec='{{{'an array of 2 ' * 100}}}']")

    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
    with pytest.raises(OSError, match=r"to file 11: File too large \[os_error_code='27'\]\); "):
        checkpoints.wait()


def test_a_full_disk_is_said_to_be_and_the_last_checkpoint_opens(small_disk):
    folder = small_disk / "checkpoints"
    with RunCheckpoints(folder) as checkpoints:
        written(checkpoints, 1)
    assert "No space left on device" in not_written(folder)
    assert_only_the_first_is_there(folder)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [vmap(), scan(), chunked(2)])
def test_simulate_goes_on_from_any_round_to_the_same_bits(task, corpus, axis):
    def run(**more):
        algorithm = fed_avg(
            task.loss,
            task.params,
            client_optimizer=optax.sgd(0.5),
            server_optimizer=optax.adam(0.01),
            uplink=codec("error_feedback(top_k(fraction=0.1))"),
        )
        batching = Batching(seq=16, batch=2, steps=2)
        federation = (algorithm, task.params, task.frozen, corpus, batching)
        options = {"rounds": 4, "clients": 3, "seed": 0, "client_axis": axis}
        return [(r, r.snapshot()) for r in simulate(*federation, **options, **more)]

    whole = run()
    rest = run(start=whole[1][1])
    assert [r.round for r, _ in rest] == [3, 4]
    for (one, stood), (other, stands) in zip(whole[2:], rest, strict=True):
        assert_same(stood, stands)
        assert one.messages == other.messages
        assert_same(one.client_info, other.client_info)
    none = StoreRows(np.zeros(0, np.int64), jax.tree.map(lambda x: x[:0], whole[1][1].store.states))
    forgetful = run(start=whole[1][1]._replace(store=none))
    with pytest.raises(AssertionError):
        assert_same(forgetful[-1][1].state, whole[-1][1].state)
