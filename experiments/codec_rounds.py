"""What does a codec cost a round, beside the same round without compression?

    python experiments/codec_rounds.py

The default task: 32 of 412 roles of Shakespeare, a decoder of 107,328 parameters, eight local steps
of 8 x 64 bytes, clients one after another. For each codec the CPU seconds of the first round less
those of a later one, which is compilation; the median of a round's CPU seconds; and both over those
of another codec. CPU seconds, unlike time, hardly change with what else runs on the machine.
"""

import argparse
import statistics
import time
from contextlib import closing
from dataclasses import replace

from fedjax_llm import RunConfig
from fedjax_llm.runs import prepare, rounds
from fedjax_llm.simulation import scan

CODECS = [
    "identity()",
    "eden(bits=0.1)",
    "trellis_fixed(bits=0.1)",
    "preconditioned(trellis_fixed(bits=0.1))",
    "preconditioned(trellis_fixed(bits=0.25))",
    "preconditioned(trellis_fixed(bits=1))",
    "adaptive(rate=1)",
]


def measured(codec, repeats):
    """CPU seconds of compilation, and of a round."""
    run = prepare(replace(RunConfig(uplink=codec), rounds=repeats + 1))
    with closing(rounds(run, scan())) as coming:
        seconds = []
        for _ in range(repeats + 1):
            started = time.process_time()
            next(coming)
            seconds.append(time.process_time() - started)
    later = statistics.median(seconds[1:])
    return seconds[0] - later, later


def main():
    """Measure and print a line for each codec."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codecs", nargs="+", default=CODECS)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    found = {codec: measured(codec, given.repeats) for codec in given.codecs}
    plain, eden = (found.get(name) for name in ("identity()", "eden(bits=0.1)"))
    print("| codec | compile s | over EDEN's | round s | over uncompressed |")
    print("|---|---:|---:|---:|---:|")
    for codec, (compiled, later) in found.items():
        over_eden = f"{compiled / eden[0]:.2f}" if eden else ""
        over_plain = f"{later / plain[1]:.2f}" if plain else ""
        print(f"| `{codec}` | {compiled:.1f} | {over_eden} | {later:.2f} | {over_plain} |")


if __name__ == "__main__":
    main()
