"""A client's file: which of two states it trains from, and what it refuses."""

from typing import NamedTuple

import jax
import jax.random as jr
import numpy as np
import pytest

from fedjax_llm.flower.client_files import ClientFile, Kept

ORIGIN = "5eed"


class State(NamedTuple):
    sent: np.ndarray
    """What the server's state depends on."""
    own: np.ndarray
    """What stays at the client."""


def uncounted(old, new):
    return new._replace(sent=old.sent)


def state(value):
    return State(np.full(2, value, np.float32), np.full((), value, np.int32))


def trained(file, number, counted):
    """One round: the state that it begins with; it ends with that of the round's number."""
    kept = file.begin(number, counted, uncounted)
    file.write(Kept(kept.counted, kept.state, number, state(number)))
    return float(kept.state.sent[0]), int(kept.state.own)


def test_the_state_moves_with_the_messages_that_count(tmp_path):
    def opened():  # a process of its own for each message
        return ClientFile(tmp_path, "run", "ann", ORIGIN, state(0))

    assert trained(opened(), 1, 0) == (0, 0)
    assert trained(opened(), 4, 1) == (1, 1)  # round 1 counted
    assert trained(opened(), 5, 1) == (1, 4)  # round 4 did not: its own part is kept
    assert trained(opened(), 7, 5) == (5, 5)
    assert trained(opened(), 7, 5) == (5, 5)  # the server lost round 7 and repeats it
    assert trained(opened(), 9, 7) == (7, 7)


def test_without_uncounted_all_of_the_old_state_is_kept(tmp_path):
    file = ClientFile(tmp_path, "run", "ann", ORIGIN, state(0))
    file.write(Kept(3, state(3), 4, state(4)))
    kept = file.begin(5, 3, None)
    assert jax.tree.map(float, kept.state._replace(sent=kept.state.sent[0])) == (3.0, 3.0)


def test_a_state_that_the_server_did_not_count_last_is_refused(tmp_path):
    file = ClientFile(tmp_path, "run", "ann", ORIGIN, state(0))
    with pytest.raises(ValueError, match="expected the state after round 2, which the server"):
        file.begin(3, 2, None)
    file.write(Kept(5, state(5), 6, state(6)))
    with pytest.raises(ValueError, match=r"expected the state after round 4.*got that of round 5"):
        file.begin(5, 4, None)


@pytest.mark.parametrize("place", [0, 70, -1])
def test_a_changed_byte_is_refused(place, tmp_path):
    file = ClientFile(tmp_path, "run", "ann", ORIGIN, state(0))
    file.write(Kept(1, state(1), 2, state(2)))
    data = bytearray(file.path.read_bytes())
    data[place] ^= 1
    file.path.write_bytes(data)
    with pytest.raises(ValueError, match=r"expected the digest .*, got another; remove it"):
        file.read()


def test_a_file_of_another_algorithm_or_client_is_refused(tmp_path):
    file = ClientFile(tmp_path, "run", "ann", ORIGIN, state(0))
    file.write(Kept(1, state(1), 2, state(2)))
    with pytest.raises(ValueError, match="expected a state of this algorithm"):
        ClientFile(tmp_path, "run", "ann", ORIGIN, {"sent": np.zeros(3)}).read()
    other = ClientFile(tmp_path, "run", "bob", ORIGIN, state(0))
    other.path.parent.mkdir(parents=True)
    other.path.write_bytes(file.path.read_bytes())
    with pytest.raises(ValueError, match=r"expected .*'bob'.*, got .*'ann'"):
        other.read()


def test_a_file_of_another_run_of_the_same_name_is_refused(tmp_path):
    """Also where both runs have counted this client's message of the same round."""
    ClientFile(tmp_path, "run", "ann", "0ther", state(0)).write(Kept(1, state(1), 2, state(2)))
    with pytest.raises(ValueError, match="origin 5eed, got one of another run of the same name"):
        ClientFile(tmp_path, "run", "ann", ORIGIN, state(0)).begin(3, 2, None)


def test_names_lead_out_of_no_folder(tmp_path):
    for name in ("..", "../../x", "/etc", "a/b", "."):
        path = ClientFile(tmp_path, name, name, ORIGIN, state(0)).path
        assert path.resolve().is_relative_to(tmp_path.resolve())
        assert len(path.relative_to(tmp_path).parts) == 3


def test_keys_and_scalars_come_back(tmp_path):
    first = {"key": jr.key(3), "count": np.int32(0), "none": ()}
    file = ClientFile(tmp_path, "run", "ann", ORIGIN, first)
    file.write(Kept(0, first, 1, {"key": jr.key(7), "count": np.int32(4), "none": ()}))
    after = file.read().after
    assert (jr.key_data(after["key"]) == jr.key_data(jr.key(7))).all()
    assert after["count"] == 4
