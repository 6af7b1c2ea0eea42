"""Rounds on the low-rank task, for tests of single LoRA methods."""

import jax
from fedjax_compression import wire

from fedjax_llm.client_training import local_steps
from fedjax_llm.ledger import entries, lengths, total_bytes
from fedjax_llm.simulation import round_program, vmap
from tests.helpers import algorithm_table as contract
from tests.helpers import low_rank_task
from tests.helpers.low_rank_task import CLIENTS, FROZEN, PARAMS, SGD, WEIGHTS, cohort, loss


def start(algorithm, clients=CLIENTS):
    return contract.start(low_rank_task, algorithm, clients)


def play(program, state, own, rounds, batches=None, weights=WEIGHTS):
    """Play rounds: server state, client states, and what the last round returned."""
    return contract.play(low_rank_task, program, state, own, rounds, batches, weights)


def program_of(name):
    """An algorithm of the table, and its round program."""
    return contract.program(name)


def first_round(name):
    """`play` of one round of an algorithm of the table."""
    algorithm, program = program_of(name)
    return play(program, *start(algorithm), [0])


def after(algorithm, rounds=2, **given):
    """`play` of some rounds of an algorithm from its initial state."""
    clients = len(given.get("weights", WEIGHTS))
    program = round_program(algorithm, vmap())
    return play(program, *start(algorithm, clients), range(rounds), **given)


def trained_alone(params=PARAMS, optimizer=SGD, seed=0):
    """Every client's factors after local steps on both `a` and `b`."""
    train = local_steps(loss, optimizer)
    return jax.vmap(lambda batches: train(params, FROZEN, batches)[0])(cohort(seed))


def sizes(name):
    """Bytes of one uplink and of one downlink, as the ledger counts them, headers and all."""
    downlink, uplinks, _, _ = jax.device_get(contract.played(name)[2])
    listed = entries(1, range(CLIENTS), len(wire.dumps(downlink)), lengths(uplinks))
    up, down = total_bytes(listed, "up"), total_bytes(listed, "down")
    assert up % CLIENTS == down % CLIENTS == 0
    return up // CLIENTS, down // CLIENTS
