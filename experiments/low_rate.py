"""How far below one bit per parameter can an unbiased codec go before the loss shows it?

    python experiments/low_rate.py        about six minutes on two cores

The error of an unbiased codec averages out over the cohort, so its variance may be large: at half a
bit `eden` has 2.1 times the update's power, of which a mean over 32 clients of equal weight keeps
7 %. Eight rounds of 32 clients on Shakespeare's plays, three seeds, beside the uncompressed run and
one-bit stochastic rounding.

Result: down to half a bit the loss hardly shows it. Mean of three seeds, against the uncompressed
2.3837 nats per byte: `eden(bits=1)` -.0011 with 31.7 times fewer bytes, `eden(bits=0.5)` +.0147
with 62.8 times, the entropy-coded quantiser at half a bit +.0272 with 64.0 times, at a fifth of a
bit +.1813 with 160 times; one-bit stochastic rounding without a rotation +.0204 with 31.8 times.
"""

from pathlib import Path

from rich.console import Console

from fedjax_llm import studies
from fedjax_llm.runs import RunConfig

CODECS = (
    "identity()",
    "stochastic_quantize(bits=1)",
    "eden(bits=1)",
    "eden(bits=0.5)",
    "unbiased_scale(rotated(entropy_coded(rate=0.5)))",
    "unbiased_scale(rotated(entropy_coded(rate=0.2)))",
)
RESULTS = Path(__file__).parent / "results" / "low_rate.jsonl"


def main() -> None:
    common = RunConfig(rounds=8, client_axis="scan()")
    configs = studies.configurations(common, CODECS, seeds=(0, 1, 2))
    RESULTS.parent.mkdir(exist_ok=True)
    rows = list(studies.sweep(configs, RESULTS))
    Console(width=120).print(studies.table(rows))


if __name__ == "__main__":
    main()
