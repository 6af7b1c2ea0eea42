"""Who needs the fewest bytes, if few clients take part in each round?

    fedjax-llm study experiments/headline/partial.py --out runs/headline/partial

The default task: 412 roles of Shakespeare, 32 of them in each of 20 rounds, a decoder from scratch.
Each configuration has four candidates, which train on a fifth of the roles for 10 rounds, and the
better two for 20; the other roles are reported. Seed 0 for all, seeds 1 and 2 for those that were
near the front with it.
"""

from dataclasses import replace

from fedjax_llm import RunConfig, Study, Tuning

BASE = RunConfig(rounds=20, clients=32, client_axis="scan()", evaluate_every=5)
UPLINKS = [
    "identity()",
    "eden(bits=0.1)",
    "preconditioned(trellis_fixed(bits=0.1))",
    "preconditioned(trellis_fixed(bits=0.25))",
    "eden(bits=0.25)",
    "eden(bits=1)",
    "preconditioned(trellis_fixed(bits=0.05))",
    "error_feedback(top_k(fraction=0.01))",
    "error_feedback(sparse_ternary(fraction=0.01))",
    "adaptive(rate=0.25)",
    "error_feedback(power_sgd(rank=2))",
    "eden(bits=0.5)",
    "preconditioned(trellis_fixed(bits=0.5))",
]
METHODS = [
    {"algorithm": "sparse_loco()"},
    {"algorithm": "diloco()", "uplink": "blockwise_int(bits=4)"},
    {"algorithm": "muloco()"},
]
NEAR: list[str] = []
"""Uplinks whose seeds 1 and 2 are run too."""

CLIENT = ("adam(0.003)", "adam(0.005)")
SERVER = ("sgd(1.0, momentum=0.5, nesterov=True)", "sgd(0.5, momentum=0.75, nesterov=True)")


def combined(config, **fields):
    """Two values for each of two fields: four candidates."""
    (one, ones), (other, others) = fields.items()
    return [replace(config, **{one: a, other: b}) for a in ones for b in others]


def candidates(config):
    """Four candidates, in the fields that the method has."""
    name = config.algorithm.split("(")[0]
    if name == "muloco":
        inner = ("muloco(rate=0.01)", "muloco(rate=0.02)")
        return combined(config, algorithm=inner, server_optimizer=SERVER)
    if name == "sparse_loco":
        outer = ("sparse_loco(rate=1.0)", "sparse_loco(rate=2.0)")
        return combined(config, algorithm=outer, client_optimizer=CLIENT)
    return combined(config, client_optimizer=CLIENT, server_optimizer=SERVER)


first = [replace(BASE, uplink=uplink) for uplink in UPLINKS]
first += [replace(BASE, **fields) for fields in METHODS]
again = [replace(BASE, uplink=uplink, seed=seed) for uplink in NEAR for seed in (1, 2)]
study = Study(
    first + again,
    seeds=None,
    tune=Tuning(candidates=candidates, rounds=10),
    costs=("uplink", "both"),
)
