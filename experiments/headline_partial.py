"""Who needs the fewest bytes, if few clients take part in each round?

    fedjax-llm study experiments/headline_partial.py --out runs/headline
    python experiments/headline_tables.py

The first runs the study. The second draws the README's picture and prints the tables of
docs/measurements.md, from the rows in results.

The default task: roles of Shakespeare, 32 of them in each of 20 rounds, a decoder from scratch.
Each configuration has nine candidates, which train on a fifth of the roles for 20 rounds; the other
roles are reported. Seeds 0, 1 and 2, and seed 0 alone for codecs that end far from the front.
"""

from dataclasses import replace

from fedjax_llm import RunConfig, Study, Tuning

BASE = RunConfig(rounds=20, clients=32, client_axis="scan()", evaluate_every=5)
UPLINKS = [
    "identity()",
    *(f"preconditioned(trellis_fixed(bits={bits}))" for bits in (0.1, 0.25, 0.05)),
    *(f"eden(bits={bits})" for bits in (0.1, 0.25, 1)),
    "stages(preconditioned(trellis_fixed(bits=0.05)), 16, "
    "preconditioned(trellis_fixed(bits=0.25)))",
]
"""Uplinks that are run with three seeds."""

FAR = [
    "error_feedback(top_k(fraction=0.01))",
    "error_feedback(sparse_ternary(fraction=0.01))",
    "error_feedback(power_sgd(rank=2))",
]
"""Biased uplinks, which all end far above the others."""

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
first += [replace(BASE, uplink=uplink) for uplink in FAR]
again = [replace(BASE, uplink=uplink, seed=seed) for uplink in UPLINKS for seed in (1, 2)]
again += [
    replace(BASE, uplink=uplink, client_optimizer="muon()", seed=seed)
    for uplink in MUON[:2]
    for seed in (1, 2)
]
study = Study(
    first + again,
    seeds=None,
    tune=Tuning(candidates=candidates, rounds=20, halve=False),
    costs=("uplink", "both"),
    highest=2.5,
)
