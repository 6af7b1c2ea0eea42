"""Who needs the fewest bytes to fine-tune a pretrained model?

    fedjax-llm study experiments/headline_finetune.py --out runs/finetune

SmolLM2-135M-Instruct on the answers of 17 people of chitchat, eight of them in each of eight
rounds of two steps, LoRA of rank 8 on all products unless the method has another adapter. Adam for
the clients at the better of two rates, chosen on three other people; a server that takes the mean.
Methods without local steps of gradients (zeroth order) have rates of their own.
"""

from dataclasses import replace

from fedjax_llm import RunConfig, Study, Tuning

BASE = RunConfig(
    model="smollm2",
    data="chitchat()",
    population=17,
    unseen="share(0.0)",
    rounds=8,
    clients=8,
    local_steps=2,
    batch=2,
    seq=64,
    adapter="lora(rank=8)",
    evaluate_rows=96,
    client_axis="scan()",
)
UPLINKS = [
    "identity()",
    "preconditioned(trellis_fixed(bits=0.1))",
    "eden(bits=0.1)",
    "eden(bits=0.25)",
    "preconditioned(trellis_fixed(bits=0.25))",
    "eden(bits=1)",
    "error_feedback(top_k(fraction=0.01))",
    "blockwise_int(bits=8)",
    "adaptive(rate=0.25)",
]
METHODS = [
    {"algorithm": "ffa_lora()"},
    {"algorithm": "ffa_lora()", "uplink": "preconditioned(trellis_fixed(bits=0.1))"},
    {"algorithm": "flasc(up=0.25, down=0.25)"},
    {"algorithm": "fed_sb()"},
]

study = Study(
    [replace(BASE, uplink=uplink) for uplink in UPLINKS]
    + [replace(BASE, **fields) for fields in METHODS],
    seeds=None,
    tune=Tuning(
        candidates={"client_optimizer": ("adam(0.001)", "adam(0.003)")}, rounds=4, share=0.2
    ),
    costs=("uplink", "both"),
)
