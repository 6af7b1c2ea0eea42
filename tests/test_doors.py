"""A wrong kind of argument gets one clear error at the call, and not one deep inside later.

The suite checks annotations at run time, which a user's program does not; so the calls are made in
a process of their own, without those checks.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import jax, jax.numpy as jnp, optax
import fedjax_compression as fc
from fedjax_compression import *
from fedjax_llm import *
from fedjax_llm import algorithms, data, evaluation, simulation, tasks
from fedjax_llm.privacy import Secret
from fedjax_llm.runs import prepare
import fedjax_llm.algorithms.registry, fedjax_llm.data.registry
from fedjax_llm.testing import check_aggregator, check_algorithm
from fedjax_compression.testing import check_compressor

like = {"w": jnp.zeros(3)}
loss = lambda params, frozen, batch: params["w"].sum()
sgd = optax.sgd(0.1)
corpus = byte_corpus({c: c * 60 for c in "abcdefghijkl"})
split = hold_out(corpus, seed=0)
batching = Batching(seq=8, batch=2, steps=1)
mean = fed_avg(loss, like, client_optimizer=sgd)
run = dict(rounds=1, clients=2, seed=0)
key = jax.random.key(0)
calls = json.load(sys.stdin)
said = {}
for call in calls:
    try:
        found = eval(call)
        if hasattr(found, "__next__"):
            next(found)
        said[call] = "nothing was raised"
    except Exception as error:
        said[call] = f"{type(error).__name__}: {error}"
print(json.dumps(said))
"""
SIMULATE = "simulate({algorithm}, like, (), {corpus}, {batching}, **run{more})"
GIVEN = {"algorithm": "mean", "corpus": "split.train", "batching": "batching", "more": ""}


def simulated(**other):
    return SIMULATE.format(**GIVEN | other)


CALLS = {
    "Secret('deadbeef' * 8)": (
        "TypeError: Secret: value: expected bytes, got a str; secrets.token_bytes(32) makes them."
    ),
    simulated(more=", secret='deadbeef'"): (
        "TypeError: simulate: secret: expected a Secret or None, got a str; "
        "Secret(secrets.token_bytes(32)) makes one."
    ),
    "Study(['eden()'])": "TypeError: study: configurations: expected RunConfig, got 'eden()'.",
    "Tuning(candidates=3)": (
        "TypeError: tune: candidates: expected values by field or a function of a configuration, "
        "got 3."
    ),
    "Tuning(candidates={}, halve=1)": "TypeError: tune: halve: expected True or False, got 1.",
    "data.pooled({1: [], '1': []})": (
        "TypeError: pooled: examples: client 1: expected a name as text, got 1; '1' is one."
    ),
    "fed_avg(loss, like, client_optimizer=sgd, uplink='eden(bits=1)')": (
        "TypeError: fed_avg: uplink: expected a Compressor, got 'eden(bits=1)'; "
        "codec('eden(bits=1)') makes one."
    ),
    "fed_avg(loss, like, client_optimizer=sgd, downlink=eden)": (
        "TypeError: fed_avg: downlink: expected a Compressor, got ",
        "call the factory first",
    ),
    "fed_avg(loss, like, client_optimizer=0.1)": (
        "TypeError: fed_avg: client_optimizer: expected an Optax optimizer, got 0.1; "
        "optax.sgd(0.1) makes one."
    ),
    "fed_avg(loss, like, client_optimizer=optax.sgd)": (
        "TypeError: fed_avg: client_optimizer: expected an Optax optimizer, got ",
    ),
    "fed_avg('loss', like, client_optimizer=sgd)": (
        "TypeError: fed_avg: loss: expected a function",
    ),
    "fed_avg(loss, like, client_optimizer=sgd, server_optimizer='sgd(1.0)')": (
        "TypeError: fed_avg: server_optimizer: expected an Optax optimizer, got 'sgd(1.0)'",
    ),
    "fed_avg(loss, like, client_optimizer=sgd, aggregate=weighted_mean)": (
        "TypeError: fed_avg: aggregate: expected an Aggregator, got ",
    ),
    "algorithms.scaffold(loss, like, client_optimizer=sgd, population=4, uplink=['a'])": (
        "TypeError: scaffold: uplink: expected a Compressor, got ['a']",
    ),
    "algorithms.flora(loss, like, client_optimizer=3, scale=1.0, clients=2)": (
        "TypeError: flora: client_optimizer: expected an Optax optimizer, got 3",
    ),
    "algorithms.decomfl(loss, like, client_optimizer='sgd', steps=1)": (
        "TypeError: decomfl: client_optimizer: expected an Optax optimizer, got 'sgd'",
    ),
    simulated(corpus="split"): ("TypeError: simulate: ", "HoldOut", ".train"),
    simulated(corpus="{'a': 'text'}"): ("TypeError: simulate: ",),
    simulated(algorithm="fed_avg"): (
        "TypeError: simulate: algorithm: expected a FederatedAlgorithm",
    ),
    simulated(batching="{'seq': 8}"): ("TypeError: simulate: batching: expected a Batching",),
    simulated(more=", client_axis='vmap()'"): ("TypeError: simulate: client_axis: expected a Cli",),
    simulated(more=", client_axis=vmap"): (
        "TypeError: simulate: client_axis: expected a ClientAxis",
    ),
    simulated(more=", conditions=simulation.faults(dropout=0.1)"): (
        "TypeError: simulate: conditions: expected Conditions",
    ),
    "chain([eden(bits=1), sign()])": ("TypeError: chain: ", "expected a Compressor, got "),
    "chain('eden(bits=1)')": ("TypeError: chain: ", "codec('eden(bits=1)') makes one"),
    "error_feedback(top_k)": ("TypeError: error_feedback: ", "call the factory first"),
    "error_feedback('sign()')": ("TypeError: error_feedback: ", "codec('sign()') makes one"),
    "rotated(3)": ("TypeError: rotated: ", "expected a Compressor, got 3"),
    "ef21('sign()')": ("TypeError: ef21: ", "codec('sign()') makes one"),
    "eden(bits='1')": ("ValueError: eden: bits: expected ",),
    "top_k(fraction='a tenth')": ("ValueError: top_k: fraction: expected ",),
    "codec(eden)": ("TypeError: codec: ",),
    "check_compressor('eden(bits=1)')": (
        "TypeError: check_compressor: compressor: expected a Compressor, got 'eden(bits=1)'",
    ),
    "check_algorithm(fed_avg, like, (), {})": (
        "TypeError: check_algorithm: algorithm: expected a FederatedAlgorithm",
    ),
    "check_aggregator(weighted_mean)": (
        "TypeError: check_aggregator: aggregator: expected an Aggregator",
    ),
    "prepare(RunConfig(uplink=eden(bits=1)))": (
        "ValueError: uplink: expected a text such as name(argument=1), got ",
        "an object of your own goes in as Named(text, object).",
    ),
    "register('mine', 3)": ("TypeError: register: factory: expected a function",),
    "algorithms.registry.register('mine', 3)": ("TypeError: register: method: expected a ",),
    "data.registry.register('mine', 3)": ("TypeError: register: factory: expected a function",),
    "train(RunConfig(), track=3)": (
        "TypeError: track: expected tensorboard, trackio, wandb or a Tracker, got 3."
    ),
    "train({'rounds': 3})": "TypeError: train: config: expected a RunConfig, got {'rounds': 3}.",
    "byte_corpus('text')": ("TypeError: byte_corpus: ", "got 'text'"),
    "hold_out(split, seed=0)": ("TypeError: hold_out: ", "HoldOut"),
    "language_model({'hidden_size': 8}, key=key)": (
        "TypeError: language_model: config: expected a DecoderConfig",
    ),
    "language_model(DecoderConfig(), key=key, adapter=lora)": (
        "TypeError: language_model: adapter: expected an Adapter",
    ),
    "language_model(DecoderConfig(), key=key, adapter='lora(rank=8)')": (
        "TypeError: language_model: adapter: expected an Adapter",
    ),
    "lora(rank='8')": ("ValueError: lora: rank: expected ",),
    "Batching(seq='8', batch=2, steps=1)": ("ValueError: Batching: seq: expected ",),
    "evaluation.by_client(loss, like, (), split, seq=8)": ("TypeError: by_client: ", "HoldOut"),
}


@pytest.fixture(scope="module")
def said():
    root = Path(__file__).parents[1]
    done = subprocess.run(  # noqa: S603 - our own text
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(list(CALLS)),
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={"PYTHONPATH": f"{root}:{root / 'compression'}", "PATH": "", "HOME": "/nonexistent"},
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_kind_is_refused_at_the_call(call, said):
    expected = CALLS[call]
    parts = (expected,) if isinstance(expected, str) else expected
    assert said[call].startswith(parts[0]), said[call]
    assert all(part in said[call] for part in parts), said[call]
