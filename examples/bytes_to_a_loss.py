"""How many bytes until a loss is reached, by codec: python examples/bytes_to_a_loss.py

Two minutes on two cores. Needs `pip install 'fedjax-llm[demo]'`.
"""

from dataclasses import replace

from fedjax_llm import RunConfig, frontier
from fedjax_llm.studies import BYTES, cost_to

CODECS = ("identity()", "eden(bits=1)", "preconditioned(trellis_fixed(bits=0.1))")
CONFIG = RunConfig(rounds=12, clients=16, evaluate_every=1, evaluate_rows=512)


def main(config=CONFIG, target=3.0, out="runs/bytes_to_a_loss"):
    """Train with each codec; return the uplink bytes until the loss was at most the target."""
    rows = frontier(replace(config, target_loss=target), list(CODECS), out=out)
    cost = {row["codec"]: cost_to(row, target, BYTES) for row in rows}
    print(f"uplink bytes until {target} nats per byte of held-out text:")
    for codec, sent in cost.items():
        print(f"{sent:>14,}  {codec}")
    return cost


if __name__ == "__main__":
    main()
