"""Who needs the fewest bytes, if the same few clients take part in every round?

    fedjax-llm study experiments/headline_everybody.py --out runs/everybody
    python experiments/headline_tables.py

The first runs the study. The second prints the tables of docs/measurements.md, from the rows in
results.

The longest 32 roles of Shakespeare: 16 to tune on, and 16 that all take part in each of 30 rounds.
Each configuration has nine candidates, which train for all 30 rounds. Seeds 0, 1 and 2, and seed 0
alone for one with Muon. Rivals that end far from these are in headline_everybody_far.py.
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
UPLINKS = [
    "identity()",
    *(f"preconditioned(trellis_fixed(bits={bits}))" for bits in (0.1, 0.25, 0.05)),
    *(f"eden(bits={bits})" for bits in (0.1, 0.25, 1)),
]
MUON = ["identity()", "preconditioned(trellis_fixed(bits=0.1))", "eden(bits=0.1)"]
"""Uplinks that are also run with Muon at the clients."""

ADAM_RATES = ("adam(0.002)", "adam(0.0035)", "adam(0.006)")
MUON_RATES = ("muon(0.01)", "muon(0.02)", "muon(0.04)")
SERVER = tuple(
    f"sgd({rate}, momentum={momentum}, nesterov=True)"
    for rate, momentum in ((1.0, 0.5), (0.5, 0.75), (0.8, 0.7))
)


def candidates(config):
    """Three rates of the client's optimizer with three settings of the server's."""
    rates = MUON_RATES if config.client_optimizer else ADAM_RATES
    return [
        replace(config, client_optimizer=rate, server_optimizer=server)
        for rate in rates
        for server in SERVER
    ]


first = [replace(BASE, uplink=uplink) for uplink in UPLINKS]
first += [replace(BASE, uplink=uplink, client_optimizer="muon()") for uplink in MUON]
again = [replace(BASE, uplink=uplink, seed=seed) for uplink in UPLINKS for seed in (1, 2)]
again += [
    replace(BASE, uplink=uplink, client_optimizer="muon()", seed=seed)
    for uplink in MUON[:2]
    for seed in (1, 2)
]
study = Study(
    first + again,
    seeds=None,
    tune=Tuning(candidates=candidates, rounds=30, share=0.5, halve=False),
    costs=("uplink", "both"),
    highest=2.6,
)
