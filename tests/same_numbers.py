"""Do the numbers of short runs stay what they were? Bits and bytes, before and after a change.

    python tests/same_numbers.py record     # writes tests/same_numbers.json
    python tests/same_numbers.py compare    # exits with status 1 where a run differs

Twenty-four runs: methods of each family, codecs of each kind, a checkpoint, faults with a deadline,
a buffer, and a resumed run. Each run's digest (SHA-256 over the parameters' bits) and uplink bytes
are compared. Bits depend on the processor and on the versions of JAX, so a record of another
machine is refused by name. About six minutes on two cores.
"""

import argparse
import contextlib
import io
import json
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import jax

RECORD = Path(__file__).with_suffix(".json")
ROLES = "hamlet/HAMLET, hamlet/HORATIO, macbeth/MACBETH, macbeth/BANQUO"
SMALL = (
    *("--rounds", "3", "--clients", "2", "--local-steps", "2", "--batch", "2", "--seq", "32"),
    *("--hidden-size", "16", "--intermediate-size", "24", "--num-hidden-layers", "2"),
    *("--num-attention-heads", "2", "--num-key-value-heads", "1"),
    *("--data", f"shakespeare(roles='{ROLES}')"),
)
ALL = ("--clients", "4")
LORA = (*ALL, "--adapter", "lora(rank=2)")
LINK = ("--link", "link(uplink=1e5, downlink=1e6, latency=0.05, step=0.1)")
RUNS = {
    "averaging": ("--uplink", "eden(bits=2)", "--downlink", "stochastic_quantize(bits=8)"),
    "control variates": ("--algorithm", "scaffold()", "--uplink", "error_feedback(sign())"),
    "normalised": (
        *("--algorithm", "fed_nova(mu=0.1)", "--uplink", "entropy_coded(rate=1)"),
        *("--client-optimizer", "sgd(0.1, momentum=0.5)"),
    ),
    "dynamic": ("--algorithm", "fed_dyn(alpha=0.1)"),
    "shifts": (*ALL, "--uplink", "diana(eden(bits=2), rate=0.5)"),
    "fair": ("--algorithm", "q_fed_avg(q=1.0, lipschitz=1.0)", "--uplink", "natural()"),
    "low communication": ("--algorithm", "diloco()", "--uplink", "adaptive(rate=1)"),
    "fragments": (*ALL, "--algorithm", "streaming_diloco(fragments_of=2, overlap=1)"),
    "both ways": (*ALL, "--algorithm", "cocktail_sgd()"),
    "coefficients": ("--algorithm", "demo(rate=0.001)"),
    "sparse": ("--algorithm", "sparse_loco(fraction=0.05)"),
    "low rank": ("--algorithm", "ffa_lora()", *LORA, "--uplink", "power_sgd(rank=1)"),
    "bases": ("--algorithm", "fedex_lora()", *LORA),
    "ranks": ("--algorithm", "hetlora(ranks='1,2')", *LORA),
    "slopes": ("--algorithm", "decomfl(draws=2)"),
    "forwards": ("--algorithm", "spry()", *LORA),
    "search": ("--algorithm", "fed_bpt(dimension=8)", "--adapter", "prompt_tuning(tokens=2)"),
    "personal": (
        "--algorithm",
        "fed_rep(personal='embedding')",
        "--uplink",
        "trellis_fixed(bits=2)",
    ),
    "distilled": ("--algorithm", "fed_md(top=4)", "--data", "shakespeare(at_least=20000)"),
    "split": ("--algorithm", "split_lora(cut=1)", *LORA),
    "faults and a deadline": (
        *("--clients", "3", "--uplink", "chain(top_k(fraction=0.1), eden(bits=2))"),
        *("--faults", "faults(dropout=0.2, silence=0.1, failure=0.1, partial=0.3)"),
        *(*LINK, "--deadline", "deadline(first=2)", "--availability", "diurnal(share=0.9)"),
    ),
    "a buffer": ("--buffer", "2", *LINK, "--uplink", "count_sketch(rows=3, columns=900)"),
    "resumed": ("--uplink", "error_feedback(chain(top_k(fraction=0.1), eden(bits=1)))"),
}
CHECKPOINT = (
    *("--model", "smollm2", "--data", "chitchat()", "--population", "10", "--clients", "2"),
    *("--rounds", "1", "--local-steps", "1", "--batch", "1", "--seq", "16"),
    *("--adapter", "lora(rank=2)", "--uplink", "random_subspace(fraction=0.5)"),
)


def numbers(args, out):
    """Digest and uplink bytes of a run, as `fedjax-llm train` writes them."""
    from fedjax_llm.cli.main import main  # noqa: PLC0415 - after the arguments are read

    with contextlib.redirect_stdout(io.StringIO()):
        main(["train", *args, "--out", str(out)])
    row = json.loads((out / "summary.json").read_text())
    return {"digest": row["digest"], "uplink_bytes": row["uplink_bytes"]}


def resumed(args, out):
    """The same of a run taken back to its first checkpoint, and resumed."""
    args = [*args, "--checkpoint-every", "1"]
    whole = numbers(args, out)
    (out / "summary.json").unlink()
    for number in (2, 3):
        shutil.rmtree(out / "checkpoints" / str(number))
    again = numbers([*args, "--resume"], out)
    assert again == whole, f"resumed: expected {whole}, got {again}"
    return again


def measured():
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, args) in enumerate(RUNS.items()):
            run = resumed if name == "resumed" else numbers
            yield name, run([*SMALL, *args], Path(folder) / str(number))
        yield "checkpoint", numbers(CHECKPOINT, Path(folder) / "checkpoint")


def machine():
    """What bits depend on, beside the code."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {"processor": cpu[0].split(": ")[1], "jax": jax.__version__, "os": platform.machine()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["record", "compare"])
    what = parser.parse_args().what
    if what == "record":
        found = dict(measured())
        RECORD.write_text(json.dumps({"machine": machine(), "runs": found}, indent=2) + "\n")
        print(f"{RECORD}: {len(found)} runs")
        return
    record = json.loads(RECORD.read_text())
    if record["machine"] != machine():
        sys.exit(f"{RECORD}: expected {record['machine']}, got {machine()}; record anew first.")
    failed = 0
    for name, got in measured():
        same = got == record["runs"][name]
        failed += not same
        verdict = "same" if same else "DIFFERS"
        print(f"{verdict:8} {name:24} {got['digest'][:16]} {got['uplink_bytes']}", flush=True)
    sys.exit(f"{failed} runs differ." if failed else 0)


if __name__ == "__main__":
    main()
