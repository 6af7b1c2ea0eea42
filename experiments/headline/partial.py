"""Who needs the fewest bytes, if few clients take part in each round?

    fedjax-llm study experiments/headline/partial.py --out runs/headline/partial

The default task: 412 roles of Shakespeare, 32 of them in each of 20 rounds, a decoder from scratch.
Each configuration has four candidates, which train on a fifth of the roles; the others are
reported. Seed 0 for all, seeds 1 and 2 for those that were near the front with it.
"""

from dataclasses import replace

from fedjax_llm import RunConfig, Study, Tuning

BASE = RunConfig(rounds=20, clients=32, client_axis="scan()", evaluate_every=5)
UPLINKS = [
    "identity()",
    "blockwise_int(bits=8)",
    "qsgd(levels=7)",
    *(f"eden(bits={bits})" for bits in (4, 2, 1, 0.5, 0.25, 0.1)),
    *(f"preconditioned(trellis_fixed(bits={bits}))" for bits in (1, 0.5, 0.25, 0.1, 0.05)),
    *(f"error_feedback(top_k(fraction={fraction}))" for fraction in (0.1, 0.01, 0.001)),
    "error_feedback(sparse_ternary(fraction=0.01))",
    "error_feedback(power_sgd(rank=2))",
    "random_k(fraction=0.01)",
    "adaptive(rate=1)",
    "adaptive(rate=0.25)",
]
METHODS = [
    {"algorithm": "fed_avg()", "server_optimizer": "fed_adam(0.01)"},
    {"algorithm": "diloco()", "uplink": "blockwise_int(bits=4)"},
    {"algorithm": "sparse_loco()"},
    {"algorithm": "muloco()"},
    {"algorithm": "demo(rate=0.001)"},
]
NEAR: list[str] = []
"""Uplinks whose seeds 1 and 2 are run too."""

CLIENT = ("adam(0.0025)", "adam(0.005)")
SERVER = ("sgd(1.0, momentum=0.5, nesterov=True)", "sgd(0.5, momentum=0.75, nesterov=True)")


def combined(config, **fields):
    """Two values for each of two fields: four candidates."""
    (one, ones), (other, others) = fields.items()
    return [replace(config, **{one: a, other: b}) for a in ones for b in others]


def candidates(config):
    """Four candidates, in the fields that the method has."""
    name = config.algorithm.split("(")[0]
    if name == "demo":
        rates = (0.0003, 0.001, 0.003, 0.01)
        return [replace(config, algorithm=f"demo(rate={rate})") for rate in rates]
    if name == "muloco":
        inner = ("muloco(rate=0.01)", "muloco(rate=0.02)")
        return combined(config, algorithm=inner, server_optimizer=SERVER)
    if name == "sparse_loco":
        outer = ("sparse_loco(rate=1.0)", "sparse_loco(rate=2.0)")
        return combined(config, algorithm=outer, client_optimizer=CLIENT)
    if config.server_optimizer:
        adaptive = ("fed_adam(0.003)", "fed_adam(0.01)")
        return combined(config, client_optimizer=CLIENT, server_optimizer=adaptive)
    return combined(config, client_optimizer=CLIENT, server_optimizer=SERVER)


first = [replace(BASE, uplink=uplink) for uplink in UPLINKS]
first += [replace(BASE, **fields) for fields in METHODS]
again = [replace(BASE, uplink=uplink, seed=seed) for uplink in NEAR for seed in (1, 2)]
study = Study(
    first + again, seeds=None, tune=Tuning(candidates=candidates), costs=("uplink", "both")
)
