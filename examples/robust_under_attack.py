"""A mean and a robust rule under attack: python examples/robust_under_attack.py

Ten seconds on two cores: a linear classifier on arrays, and a quarter of the clients attack.
"""

import jax.numpy as jnp
import numpy as np
import optax
from fedjax_compression import eden

from fedjax_llm import Batching, Conditions, fed_avg, from_arrays, masked_mean, simulate
from fedjax_llm.aggregators import multi_krum, weighted_mean
from fedjax_llm.attacks import attackable, scaling

CLIENTS, COHORT = 24, 12
RULES = {"weighted_mean": weighted_mean(), "multi_krum": multi_krum(f=4)}


def data(seed=0):
    """Points of two classes by client, and the direction that separates them."""
    draw = np.random.default_rng(seed)
    direction = draw.normal(size=8)
    clients = {}
    for number in range(CLIENTS):
        x = draw.normal(size=(40, 8))
        clients[f"client {number}"] = {"x": x, "y": np.sign(x @ direction)}
    return from_arrays(clients), direction


def main(rounds=20):
    """Train under attack with each rule; return the cosine of the result to the true direction."""
    corpus, direction = data()
    loss = masked_mean(lambda w, frozen, rows: jnp.log1p(jnp.exp(-rows["y"] * (rows["x"] @ w))))
    attack = Conditions(attack=scaling(fraction=0.25, factor=-10.0))
    found = {}
    for name, rule in RULES.items():
        method = fed_avg(
            loss,
            jnp.zeros(8),
            client_optimizer=optax.sgd(0.5),
            uplink=attackable(eden(bits=4)),
            aggregate=rule,
        )
        federation = (method, jnp.zeros(8), (), corpus, Batching(batch=10, epochs=1))
        for r in simulate(*federation, rounds=rounds, clients=COHORT, seed=0, conditions=attack):
            w = np.asarray(r.state.params)
        found[name] = float(w @ direction / np.linalg.norm(w) / np.linalg.norm(direction))
        print(f"{name}: cosine to the true direction {found[name]:.2f}")
    return found


if __name__ == "__main__":
    main()
