"""A study of one's own, as `fedjax-llm study` takes it."""

from dataclasses import replace

from fedjax_llm import DecoderConfig, RunConfig, Study, Tuning

ROLES = "hamlet/HAMLET, hamlet/HORATIO, macbeth/MACBETH, macbeth/BANQUO, othello/IAGO"
base = RunConfig(
    rounds=2,
    clients=2,
    local_steps=2,
    batch=2,
    seq=32,
    evaluate_every=1,
    unseen="share(0)",
    decoder=DecoderConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1),
    data=f"shakespeare(roles='{ROLES}')",
)
rates = {"client_optimizer": ("adam(0.0001)", "adam(0.02)", "adam(0.01)")}
study = Study(
    [
        replace(base, algorithm=algorithm, uplink=uplink)
        for algorithm in ("fed_avg()", "fed_prox(mu=0.1)")
        for uplink in ("identity()", "eden(bits=1)")
    ],
    tune=Tuning(candidates=rates, rounds=1, share=0.4),
    target=5.0,
    costs=("uplink", "downlink", "both"),
)
