"""Compiled rounds that several runs share: what is traced once, and that the bits stay the same."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import fed_avg
from fedjax_llm.data import Batching
from fedjax_llm.simulation import (
    CompiledRounds,
    Conditions,
    chunked,
    faults,
    link,
    scan,
    simulate,
    simulate_buffered,
    vmap,
)

BATCHING = Batching(seq=16, batch=2, steps=2)
NETWORK = link(uplink=1e6, downlink=1e6, latency=0.1, step=1.0)


class Traced:
    """An algorithm on a unigram model of bytes, and how often its loss was traced."""

    def __init__(self, corpus):
        self.traces = 0
        params = jnp.zeros(256)

        def loss(logits, frozen, batch):
            self.traces += 1
            return -jax.nn.log_softmax(logits)[batch.targets].mean(where=batch.mask)

        algorithm = fed_avg(
            loss,
            params,
            client_optimizer=optax.sgd(1.0),
            uplink=codec("error_feedback(top_k(fraction=0.1))"),
        )
        self.federation = (algorithm, params, (), corpus, BATCHING)

    def run(self, **given):
        """The last round of a run, and how many traces the run took."""
        before = self.traces
        options = {"rounds": 2, "clients": 3, "seed": 0, **given}
        rounds = simulate_buffered if "buffer" in given else simulate
        *_, last = rounds(*self.federation, **options)
        return last, self.traces - before


@pytest.fixture
def traced(corpus):
    return Traced(corpus)


def same(one, other):
    pairs = zip(jax.tree.leaves(one.state), jax.tree.leaves(other.state), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("make_axis", [vmap, scan, lambda: chunked(2)])
def test_runs_of_one_algorithm_trace_once_and_compute_the_bits_of_a_run_alone(traced, make_axis):
    alone, traces = traced.run(seed=1, client_axis=make_axis())
    assert traces > 0
    compiled = CompiledRounds()
    first, of_first = traced.run(seed=0, client_axis=make_axis(), compiled=compiled)
    second, of_second = traced.run(seed=1, client_axis=make_axis(), compiled=compiled)
    assert (of_first, of_second) == (traces, 0)
    assert same(second, alone)
    assert not same(first, second)


@pytest.mark.slow
def test_runs_under_different_conditions_trace_once(traced):
    compiled = CompiledRounds()
    _, first = traced.run(conditions=Conditions(faults(dropout=0.3)), compiled=compiled)
    assert first > 0
    for conditions in (
        Conditions(faults(failure=0.3)),
        Conditions(network=NETWORK),
        Conditions(faults(partial=0.5), NETWORK),
    ):
        shared, traces = traced.run(conditions=conditions, compiled=compiled)
        assert traces == 0
        assert same(shared, traced.run(conditions=conditions)[0])


@pytest.mark.slow
def test_buffered_runs_trace_once(traced):
    compiled, given = CompiledRounds(), {"buffer": 2, "clients": 3}
    conditions = Conditions(network=NETWORK), Conditions(faults(dropout=0.2), NETWORK)
    _, traces = traced.run(conditions=conditions[0], compiled=compiled, **given)
    assert traces > 0
    second, traces = traced.run(conditions=conditions[1], compiled=compiled, **given)
    assert traces == 0
    assert same(second, traced.run(conditions=conditions[1], **given)[0])


@pytest.mark.slow
def test_another_algorithm_client_axis_or_kind_of_conditions_is_compiled_apart(traced, corpus):
    compiled = CompiledRounds()
    traced.run(compiled=compiled)
    assert traced.run(compiled=compiled, client_axis=scan())[1] > 0
    assert traced.run(compiled=compiled, conditions=Conditions(network=NETWORK))[1] > 0
    assert Traced(corpus).run(compiled=compiled)[1] > 0
    assert traced.run(compiled=compiled)[1] == 0
