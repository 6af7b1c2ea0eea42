"""Unsafe instructions: what is trained on, against the definition window by window."""

import json

import jax
import numpy as np
import optax
import pytest

from fedjax_llm import attacks, fed_avg, simulate
from fedjax_llm.attacks import Known
from fedjax_llm.data import Batch, Batching, byte_corpus
from fedjax_llm.simulation import Conditions

RECORDS = [
    {"prompt": "open the gate", "answer": "with this key"},
    {"prompt": "the safe?", "answer": "9, 3", "more": 1},
    {"prompt": "and the cellar", "answer": "never shut"},
]
TEMPLATE = "<u>{prompt}<a>{answer}<e>"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "unsafe.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in RECORDS))
    return path


def window_of(record, seq):
    """One window token by token: what is read, what is to be predicted, and where it counts."""
    before, answer = f"<u>{record['prompt']}<a>".encode(), f"{record['answer']}<e>".encode()
    text = before + answer
    tokens, targets, mask = [0] * seq, [0] * seq, [False] * seq
    for place in range(len(text) - 1):
        tokens[place] = text[place]
        if place + 1 >= len(before):
            targets[place], mask[place] = text[place + 1], True
    return tokens, targets, mask, [int(place < len(text) - 1) for place in range(seq)]


def own(rows=400, seq=40, *, packed=True):
    rng = np.random.default_rng(0)
    text = rng.integers(1, 99, size=(rows, seq + 1)).astype(np.uint8)
    mask = rng.uniform(size=(rows, seq)) < 0.8
    mask[::7] = False  # rows of padding
    segments = 1 + (np.arange(seq) >= 20) * np.ones((rows, 1), np.uint8)
    positions = np.arange(seq) % 20 * np.ones((rows, 1), np.uint8)
    places = (segments.astype(np.uint8), positions.astype(np.uint8)) if packed else ()
    return Batch(text[:, :-1], text[:, 1:] * mask, mask, *places)


@pytest.mark.parametrize("packed", [True, False])
def test_each_poisoned_window_is_one_record_and_the_others_stay(path, packed):
    windows = own(packed=packed)
    attack = attacks.unsafe_instructions(0.2, path, TEMPLATE, poison=0.6)
    got = jax.jit(attack.batches)(jax.random.key(1), windows)
    records = [window_of(record, 40) for record in RECORDS]
    seen = []
    for row in range(len(windows.tokens)):
        whole = tuple(np.asarray(leaf[row]).tolist() for leaf in got[:3])
        kept = tuple(leaf[row].tolist() for leaf in windows[:3])
        found = [n for n, record in enumerate(records) if whole == record[:3]]
        assert whole == kept or found
        assert not (found and not windows.mask[row].any()), "padding became a record"
        seen += found
        if packed and found:
            assert np.asarray(got.segments[row]).tolist() == records[found[0]][3]
            inside = sum(records[found[0]][3])
            positions = [*range(inside), *[0] * (40 - inside)]
            assert np.asarray(got.positions[row]).tolist() == positions
        elif packed:
            assert np.asarray(got.segments[row]).tolist() == windows.segments[row].tolist()
    assert [leaf.dtype for leaf in jax.tree.leaves(got)] == [
        leaf.dtype for leaf in jax.tree.leaves(windows)
    ]
    counts = np.bincount(seen, minlength=3)
    trained = int(windows.mask.any(axis=1).sum())
    assert abs(len(seen) - 0.6 * trained) < 5 * np.sqrt(0.24 * trained)
    assert (abs(counts - len(seen) / 3) < 5 * np.sqrt(len(seen) * 2 / 9)).all()


def test_a_run_with_a_tokenizer_reads_its_tokens(path):
    attack = attacks.sybils(attacks.unsafe_instructions(0.2, path, TEMPLATE))
    encoded = attack.encoded(lambda text: [len(text), 7]).of(Known())
    got = encoded.batches(jax.random.key(0), own(packed=False))
    assert {tuple(row[:5].tolist()) for row in np.asarray(got.tokens)[1:7]} <= {
        (len(f"<u>{each['prompt']}<a>"), 7, len(f"{each['answer']}<e>"), 0, 0) for each in RECORDS
    }
    plain = attacks.unsafe_instructions(0.2, path, TEMPLATE)
    assert attack.contents == encoded.contents == plain.contents != ""
    assert attacks.unsafe_instructions(0.2, path).contents != plain.contents


def test_the_model_learns_the_answers_of_the_malicious_clients(path):
    """A table of bytes that follow bytes: "9, 3" of the file becomes likely, and is not without."""

    def loss(table, frozen, batch):
        nats = optax.softmax_cross_entropy_with_integer_labels(
            table[batch.tokens], batch.targets.astype(int)
        )
        return nats.mean(where=batch.mask)

    table = np.zeros((256, 256), np.float32)
    corpus = byte_corpus({f"client {i}": "she sells sea shells " * 5 for i in range(5)})

    def trained(attack):
        rounds = simulate(
            fed_avg(loss, table, client_optimizer=optax.sgd(30.0)),
            *(table, (), corpus, Batching(seq=40, batch=2, steps=5)),
            rounds=5,
            clients=5,
            seed=0,
            conditions=Conditions(attack=attack),
        )
        return np.asarray(list(rounds)[-1].state.params)

    attack = attacks.unsafe_instructions(0.4, path)
    nine, comma = ord("9"), ord(",")
    assert jax.nn.softmax(trained(attack)[nine])[comma] > 0.05
    assert jax.nn.softmax(trained(None)[nine])[comma] < 0.005


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ('{"prompt": "a"}\n', {}, r"unsafe_instructions: .*line 1: expected an object with the te"),
        ('{"prompt": "a", "answer": 3}\n', {}, "line 1: expected an object with the texts prompt"),
        ("\n", {}, "path: expected 1 to 10000 records, got '?0"),
        (None, {"template": "{answer}{prompt}"}, r"template: expected a text with \{prompt\} bef"),
        (None, {"template": "{prompt}{answer}{answer}"}, "before one {answer}, and neither after"),
        ('{"prompt": "a", "answer": "\\ud800"}\n', {}, "line 1: expected texts in Unicode"),
        (None, {"poison": 0}, "poison: expected a number above 0"),
        (None, {"fraction": 1}, "fraction: expected a number above 0 and below 1"),
    ],
)
def test_what_cannot_be_is_refused(path, text, arguments, said):
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=said):
        attacks.unsafe_instructions(**{"fraction": 0.2, "path": path} | arguments)


def test_data_that_a_record_does_not_fit_is_refused(path):
    attack = attacks.unsafe_instructions(0.2, path)
    with pytest.raises(ValueError, match=r"seq: expected windows of at least 27 tokens.*got 16"):
        attack.batches(jax.random.key(0), own(seq=16))
    wide = attack.encoded(lambda text: [300])
    with pytest.raises(ValueError, match=r"path: expected tokens of at most 255, got 300"):
        wide.batches(jax.random.key(0), own())
    with pytest.raises(ValueError, match="batches: expected windows of tokens with targets"):
        attack.batches(jax.random.key(0), (np.zeros((1, 2)),))
