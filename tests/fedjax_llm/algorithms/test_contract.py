"""The contract of every algorithm. A factory that is not in a task's table fails the suite."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from fedjax_compression import codec, wire

from fedjax_llm import algorithms
from fedjax_llm.aggregators import secure_mean
from fedjax_llm.algorithms.registry import METHODS
from fedjax_llm.ledger import entries, lengths, total_bytes
from fedjax_llm.testing import ALGORITHM_PROMISES, AlgorithmTrial, ContractError
from fedjax_llm.testing.algorithms import (
    a_client_that_missed_a_message_takes_part_again,
    client_axes_agree,
    failed_clients_are_left_out,
    integer_sums_give_the_partial_of_the_fold,
    other_structures_are_refused,
    rounds_move_the_parameters,
    rounds_trace_once,
)
from tests.helpers import dense_task
from tests.helpers.algorithm_table import TABLE, close, equal, play, played, program, start, trial

CLIENTS = 4
ALIKE = ("fed_avg, sums of integers", "fed_bpt", "fl_trust")
"""Methods whose clients count equally, whatever their positive weights."""


def test_every_method_is_in_the_table():
    assert {name.split(",")[0] for name in TABLE} | {"split_lora"} == set(METHODS)
    assert set(METHODS) == set(algorithms.__all__)  # split_lora has a test file of its own


@pytest.mark.parametrize(
    ("name", "promise"),
    [
        pytest.param(
            name,
            promise,
            marks=pytest.mark.slow if "," in name or promise is client_axes_agree else [],
        )
        for name in TABLE
        for promise in ALGORITHM_PROMISES
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_method_keeps_every_promise(name, promise):
    promise(trial(name))


@pytest.mark.parametrize("name", [n for n in TABLE if not n.startswith(("fed_md", "flora"))])
def test_rounds_move_the_servers_parameters(name):
    """But for methods whose server does not train `params`."""
    assert not equal(played(name)[0].params, TABLE[name].PARAMS)


INPUTS = {
    "client_optimizer": dense_task.PLAIN,
    "server_optimizer": dense_task.PLAIN,
    "population": 10.0,
    "steps": dense_task.STEPS,
    "root": jax.tree.map(lambda x: x[0], dense_task.cohort(9)),
    "downlink": codec("ef21(top_k(fraction=0.5))"),
}
ARGUMENTS = {
    "demo": {"rate": 0.05},
    "ditto": {"mu": 0.5},
    "fed_rep": {"last": 1},
    "mime_lite": {"rate": 0.05},
    "muloco": {"rate": 0.05},
    "flexlora": {"ranks": (1, 2)},
    "hetlora": {"ranks": (1, 2)},
}


OF_THEIR_OWN = [
    "fed_avg",
    "fed_dyn",
    "fed_nova",
    "flexlora",
    "fwd_llm",
    "mime_lite",
    "q_fed_avg",
    "scaffold",
    "spry",
]
"""Methods with a round of their own, on one of which each other method is built."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in OF_THEIR_OWN else pytest.mark.slow)
        for name, method in METHODS.items()
        if "downlink" in method.needs and name not in ("fed_md", "split_lora")
    ],  # these two refuse memory at the receiver
)
def test_every_method_declares_that_a_downlink_with_memory_needs_every_client(name):
    method = METHODS[name]
    task = TABLE.get(name, dense_task)
    given = {need: INPUTS[need] for need in method.needs if need in INPUTS}
    made = method.factory(task.loss, task.LIKE, **given, **ARGUMENTS.get(name, {}))
    assert made.every_message or made.every_round
    without = {need: value for need, value in given.items() if need != "downlink"}
    made = method.factory(task.loss, task.LIKE, **without, **ARGUMENTS.get(name, {}))
    assert not made.every_message


def undeclared(a):
    """A downlink with memory whose method does not say that every client must receive it."""
    down = codec("ef21(stochastic_quantize(bits=8))")
    made = algorithms.fed_sgd(
        dense_task.loss, dense_task.LIKE, server_optimizer=dense_task.SGD, downlink=down
    )
    return made._replace(every_message=False)._asdict()


def miscounted(a):
    """Sums that count no client."""
    made = algorithms.fed_avg(
        *(dense_task.loss, dense_task.LIKE),
        client_optimizer=dense_task.PLAIN,
        uplink=codec("fixed_point(clip=0.1, clients=4)"),
        aggregate=secure_mean(),
    )
    add = made.sums.add
    sums = made.sums._replace(add=lambda partial, total, counted: add(partial, total, 0 * counted))
    return made._replace(sums=sums)._asdict()


def keep_params(a):
    """A server that never steps."""
    return {"server_update": lambda key, s, partial: (s, a.server_update(key, s, partial)[1])}


def narrow_params(a):
    """A server whose parameters lose their dtype in the first round."""

    def server_update(key, s, partial):
        new, info = a.server_update(key, s, partial)
        return new._replace(params=cast_all(new.params, jnp.float16)), info

    return {"server_update": server_update}


def hide_failures(a):
    """A client that sends zeros for NaNs."""
    return {"client_update": lambda *given: jax.tree.map(jnp.nan_to_num, a.client_update(*given))}


def take_anything(a):
    return {"init": lambda key, params: a.init(key, TABLE["fed_avg"].PARAMS)}


def cast_all(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


@pytest.mark.parametrize(
    ("broken", "promise", "said"),
    [
        (keep_params, rounds_move_the_parameters, "rounds: expected parameters or client states"),
        (narrow_params, rounds_trace_once, "tracing: expected no trace after the first round"),
        (hide_failures, failed_clients_are_left_out, r"failures: expected \(accepted, failed\) of"),
        pytest.param(
            undeclared,
            a_client_that_missed_a_message_takes_part_again,
            r"a missed message: expected \(accepted, failed\) of \(4, 0\) in the next round, got "
            r"\(3, 1\)",
            marks=pytest.mark.slow,
        ),
        (
            miscounted,
            integer_sums_give_the_partial_of_the_fold,
            "integer sums: expected the partial that gather.add gives",
        ),
        (take_anything, other_structures_are_refused, "structure: expected a ValueError from init"),
    ],
)
def test_a_broken_promise_is_named_with_its_remedy(broken, promise, said):
    good = trial("fed_sgd")
    parts = broken(good.algorithm)
    bad = AlgorithmTrial(
        good.algorithm._replace(**parts), good.params, good.frozen, good.batches, axes=()
    )
    with pytest.raises(ContractError, match=rf"{said}.*; .*\."):
        promise(bad)


def without_client_rows(state):
    """A server state's fields that have no row for each client."""
    return {
        name: value for name, value in state._asdict().items() if name not in ("stack", "residual")
    }


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ALIKE])
def test_a_client_of_weight_two_counts_as_two_clients(name):
    task, (algorithm, one) = TABLE[name], program(name)
    state, own = start(task, algorithm)
    ways = ([0, 0, 1, 2], [1.0, 1.0, 3.0, 1.5]), ([0, 1, 2, 3], [2.0, 3.0, 1.5, 0.0])
    got = [
        one(jr.key(1), task.FROZEN, state, *map(jnp.array, (rows, weights)), own, here)[0]
        for rows, weights in ways
        for here in [jax.tree.map(lambda leaf, rows=rows: leaf[jnp.array(rows)], task.cohort())]
    ]
    close(*map(without_client_rows, got))


@pytest.mark.parametrize("name", ALIKE)
def test_clients_of_positive_weight_count_equally(name):
    task, (algorithm, one) = TABLE[name], program(name)
    first = start(task, algorithm)
    got, again, all_four = (
        play(task, one, *first, range(2), weights=weights)[0]
        for weights in (
            jnp.array([1.0, 1.0, 1.0, 0.0]),
            jnp.array([5.0, 0.5, 2.0, 0.0]),
            task.WEIGHTS,
        )
    )
    assert equal(got, again)
    assert not equal(got.params, all_four.params)


@pytest.mark.parametrize("name", TABLE)
def test_the_ledger_counts_the_dumped_bytes_and_they_load_again(name):
    downlink, uplinks, _, _ = jax.device_get(played(name)[2])
    listed = entries(1, range(CLIENTS), len(wire.dumps(downlink)), lengths(uplinks))
    sent = [jax.tree.map(lambda leaf, row=row: leaf[row], uplinks) for row in range(CLIENTS)]
    made = [wire.dumps(one) for one in sent]
    assert total_bytes(listed, "up") == sum(map(len, made))
    assert total_bytes(listed, "down") == CLIENTS * len(wire.dumps(downlink))
    for one, data in zip([downlink, *sent], [wire.dumps(downlink), *made], strict=True):
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), one)
        assert wire.dumps(wire.loads(data, like)) == data


@pytest.mark.parametrize("name", ["ditto", "fed_rep", "fed_md", "fedsa_lora"])
def test_a_personal_model_has_the_structure_of_the_servers_and_other_values(name):
    state, own, _ = played(name)
    first, second = (jax.tree.map(lambda leaf, row=row: leaf[row], own) for row in range(2))
    algorithm, _ = program(name)
    models = [algorithm.personal(state.params, one) for one in (first, second)]
    assert jax.tree.map(jnp.shape, models[0]) == jax.tree.map(jnp.shape, TABLE[name].PARAMS)
    assert not equal(*models)
    assert not equal(models[0], state.params)


@pytest.mark.parametrize("name", TABLE)
def test_parameters_of_another_structure_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name.split(',')[0]}: params: expected .* as in like"):
        trial(name).algorithm.init(
            jr.key(0), {"adapter": {"a": jnp.zeros((2, 2)), "b": jnp.eye(2)}}
        )
