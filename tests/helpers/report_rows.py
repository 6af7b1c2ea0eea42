"""Folders of results as a sweep leaves them, good and bad."""

import json
from dataclasses import asdict

from fedjax_llm.runs import RunConfig, canonical

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\u2028(bits=1)"
CODECS = ("identity()", "eden(bits=2)", "eden(bits=1)", HOSTILE)
BASE = asdict(canonical(RunConfig(rounds=4)))


def row(uplink="identity()", seed=0, loss=2.0, sent=1000, **more):
    """A summary row of four rounds."""
    config = BASE | {"uplink": uplink, "seed": seed}
    return {
        "algorithm": config["algorithm"],
        "codec": uplink,
        "seed": seed,
        "unit": "byte",
        "rounds": 4,
        "uplink_bytes": 4 * sent,
        "downlink_bytes": 40_000,
        "uplink_bytes_by_round": [sent] * 4,
        "downlink_bytes_by_round": [10_000] * 4,
        "heldout_nats_per_byte_by_round": [None, loss + 0.5, None, loss],
        "failed": 0,
        "digest": f"{uplink} {seed}",
        "versions": {"jax": "0.10.2"},
        "device": "cpu",
        "contents": {"data": "a" * 64},
        "config": config,
        "heldout_nats_per_byte": loss,
        "heldout_nats_per_byte_of_worst_tenth": None if loss is None else loss + 0.25,
    } | more


def sweep(codecs=CODECS, seeds=(0, 1, 2)):
    """Rows whose losses and bytes differ by codec, and whose losses differ by seed."""
    return [
        row(codec, seed, loss=2 + 0.1 * place + 0.01 * seed, sent=32_000 // 2**place)
        for place, codec in enumerate(codecs)
        for seed in seeds
    ]


def write(folder, rows, name="results.jsonl", end="\n"):
    """Write rows as JSON lines, with what follows the last of them."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(json.dumps(each) for each in rows) + end
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def codec_rows():
    return [
        {"codec": c, "source": s, "bits_per_entry": b, "error": e, "error_of_the_mean": e / 16}
        for s in ("Gaussian", "Student t")
        for c, b, e in (
            ("eden(bits=1)", 1.0, 0.36),
            ("eden(bits=2)", 2.0, 0.12),
            (HOSTILE, 4, 0.01),
        )
    ]
