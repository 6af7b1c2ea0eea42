"""What rivals far from the front reach, if the same few clients take part in every round.

    fedjax-llm study experiments/headline_everybody_far.py --out runs/everybody_far
    python experiments/headline_tables.py

The first runs the study. The second prints the tables of docs/measurements.md, from the rows in
results.

The task of headline_everybody.py. Each configuration has four candidates, which train for 15
rounds, and the better two for 30. Seed 0 alone.
"""

from dataclasses import replace

from fedjax_llm import RunConfig, Study, Tuning

BASE = RunConfig(
    data="shakespeare(at_least=21800)",
    unseen="share(0.0)",
    rounds=30,
    clients=16,
    client_axis="scan()",
    evaluate_every=5,
)
LEAST_ERROR = "least_error_scale(eden(bits=0.25))"
UPLINKS = [
    "error_feedback(top_k(fraction=0.01))",
    f"error_feedback({LEAST_ERROR})",
    "error_feedback(sparse_ternary(fraction=0.01))",
    "error_feedback(top_k(fraction=0.1))",
    "error_feedback(power_sgd(rank=2))",
]
METHODS = [
    {"algorithm": "diloco()", "uplink": "blockwise_int(bits=4)"},
    {"algorithm": "sparse_loco()"},
    {"algorithm": "muloco()"},
    {"algorithm": "demo(rate=0.001)"},
]

RIVALS = [
    {"server_optimizer": "fed_adam()"},
    {"uplink": "adaptive(rate=0.25)"},
    {"uplink": "qsgd(levels=1)"},
    {"uplink": "ef21(top_k(fraction=0.01))"},
    {"uplink": "random_k(fraction=0.01)"},
    {"algorithm": "cocktail_sgd()"},
    {"uplink": "bfloat16()"},
]

STEP = "sgd(1.0)"
FEEDBACK = [
    {"uplink": "diana(eden(bits=0.25), rate=0.15)"},
    {"uplink": f"error_feedback({LEAST_ERROR}, decay=0.5)"},
    {"uplink": f"error_feedback({LEAST_ERROR})", "server_optimizer": STEP},
    {"uplink": "diana(preconditioned(trellis_fixed(bits=0.1)), rate=0.1)"},
    {"uplink": "diana(eden(bits=0.1), rate=0.06)"},
]
"""Other forms of memory at the clients: shifts, a residual that fades, no momentum at the server.
"""

CLIENT = ("adam(0.0025)", "adam(0.005)")
SERVER = ("sgd(1.0, momentum=0.5, nesterov=True)", "sgd(0.5, momentum=0.75, nesterov=True)")
OTHER_SERVERS = {
    "fed_adam()": ("fed_adam(0.003)", "fed_adam(0.01)"),
    STEP: ("sgd(1.0)", "sgd(0.7)"),
}


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
    if name == "cocktail_sgd":
        rates = (0.00125, 0.0025, 0.005, 0.01)
        return [replace(config, client_optimizer=f"adam({rate})") for rate in rates]
    if name == "muloco":
        inner = ("muloco(rate=0.01)", "muloco(rate=0.02)")
        return combined(config, algorithm=inner, server_optimizer=SERVER)
    if name == "sparse_loco":
        outer = ("sparse_loco(rate=1.0)", "sparse_loco(rate=2.0)")
        return combined(config, algorithm=outer, client_optimizer=CLIENT)
    server = OTHER_SERVERS.get(config.server_optimizer, SERVER)
    return combined(config, client_optimizer=CLIENT, server_optimizer=server)


first = [replace(BASE, uplink=uplink) for uplink in UPLINKS]
first += [replace(BASE, **fields) for fields in (*METHODS, *RIVALS, *FEEDBACK)]
study = Study(
    first,
    seeds=None,
    tune=Tuning(candidates=candidates, rounds=15, share=0.5),
    costs=("uplink", "both"),
    highest=2.6,
)
