"""Where does a round's time go, operation by operation?

    python experiments/round_profile.py [--works full lora wide_full wide_lora]

One round of 8 clients x 4 steps x 4 x 128 tokens of a Llama of 6 layers of 256 under JAX's
profiler, on one core; each operation of the compiled program counts for the part of the model that
it belongs to. Seconds are CPU seconds of the process, split as the traced time is; the bound is
what the same matrix products would take at the rate of large square ones. `full` trains all
parameters over 256 tokens, `lora` adapters of rank 8 on all products; `wide_` has 4,096 tokens. One
minute for each work on an idle machine.
"""

import argparse
import math
import os
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax

from fedjax_llm import scan
from fedjax_llm.bench.rounds import MIDDLE, product_peak
from fedjax_llm.bench.works import Work, federation_of
from fedjax_llm.simulation.loop.chunk_programs import repeatable_round

WORKS = {
    f"{wide}{kind}": Work(
        replace(MIDDLE, vocab_size=tokens),
        clients=8,
        steps=4,
        batch=4,
        seq=128,
        adapted=kind == "lora",
    )
    for wide, tokens in (("", 256), ("wide_", 4096))
    for kind in ("full", "lora")
}
PARTS = ("attention", "attend", "mlp", "norm", "embedding", "head", "loss", "optimizer")
"""Scopes that the library gives its computations; all else is `other`."""


class Operation(NamedTuple):
    """What the program's text says of one instruction: its part, and the FLOPs of its products."""

    part: str
    flops: int


class Spent(NamedTuple):
    """Nanoseconds and executions of one instruction in a trace."""

    time: float
    count: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # where there is none, read shares, not rates
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder} --xla_dump_hlo_as_text "
            "--xla_dump_hlo_module_re=jit_clients"
        )
        peak = product_peak("float32")
        print(f"large products: {peak / 1e9:.1f} GFLOP/s")
        for name in args.works:
            show(name, *profile(round_of(WORKS[name]), Path(folder)), peak)


def round_of(work: Work) -> Callable[[], None]:
    """The programs of a round, on data that is on the device."""
    return repeatable_round(*federation_of(work), clients=work.clients, seed=0, client_axis=scan())


def profile(
    once: Callable[[], None], folder: Path
) -> tuple[float, dict[str, Spent], dict[str, Operation]]:
    """CPU seconds of a round, what a trace says of each instruction, and what each of them is."""
    known = set(folder.iterdir())
    once()
    seconds = min(cpu_seconds(once) for _ in range(3))
    with jax.profiler.trace(str(folder / "trace")):
        once()
    (written,) = (folder / "trace").rglob("*.xplane.pb")
    spent = own_times(jax.profiler.ProfileData.from_file(str(written)))
    written.unlink()
    (text,) = (
        file for file in folder.glob("*jit_clients*after_optimizations.txt") if file not in known
    )
    return seconds, spent, operations(text.read_text())


def cpu_seconds(call: Callable[[], None]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def own_times(data: "jax.profiler.ProfileData") -> dict[str, Spent]:
    """Time of each instruction of the clients' program, without that of those that it encloses."""
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for line in (line for plane in data.planes for line in plane.lines):
        events = [
            event
            for event in line.events
            if dict(event.stats).get("hlo_module") == "jit_clients"
            and not event.name.startswith("end:")
        ]
        events.sort(key=lambda event: (event.start_ns, -event.duration_ns))
        around: list = []
        for event in events:
            while around and around[-1].start_ns + around[-1].duration_ns <= event.start_ns:
                around.pop()
            if around:
                times[around[-1].name] -= event.duration_ns
            times[event.name] += event.duration_ns
            counts[event.name] += 1
            around.append(event)
    return {name: Spent(times[name], counts[name]) for name in times}


def operations(text: str) -> dict[str, Operation]:
    """Read the part and the products of each instruction from XLA's text of a program."""
    bodies: dict[str, list[str]] = {}
    lines: dict[str, str] = {}
    body: list[str] = []
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            body = bodies.setdefault(head[1], [])
        elif named := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line):
            lines[named[1]] = line
            body.append(line)
    shapes = {name: shape(line) for name, line in lines.items()}

    def flops(line: str) -> int:
        if called := re.search(r" calls=%([\w.\-]+)", line):
            return sum(flops(inner) for inner in bodies[called[1]])
        product = re.search(r" dot\(%([\w.\-]+), .*lhs_contracting_dims=\{([\d,]*)\}", line)
        if product is None:
            return 0
        contracted = (shapes[product[1]][int(axis)] for axis in product[2].split(","))
        return 2 * math.prod(shape(line)) * math.prod(contracted)

    return {name: Operation(part(line), flops(line)) for name, line in lines.items()}


def shape(line: str) -> list[int]:
    found = re.search(r"= \w+\[([\d,]*)\]", line)
    return [int(size) for size in found[1].split(",") if size] if found else []


def part(line: str) -> str:
    """The part of the model that an instruction says it belongs to."""
    found = re.search(r'op_name="([^"]*)"', line)
    scopes = re.split(r"[/();]", found[1]) if found else []
    return next((scope for scope in reversed(scopes) if scope in PARTS), "other")


def show(
    work: str,
    seconds: float,
    spent: dict[str, Spent],
    known: dict[str, Operation],
    peak: float,
) -> None:
    """Print seconds, rates and bounds of the parts of a round."""
    scale = seconds / sum(each.time for each in spent.values())
    products: dict[str, float] = defaultdict(float)
    others: dict[str, float] = defaultdict(float)
    flops: dict[str, int] = defaultdict(int)
    for name, each in spent.items():
        where, operations = known.get(name, Operation("other", 0))
        (products if operations else others)[where] += scale * each.time
        flops[where] += operations * each.count
    print(f"\n{work}: {seconds:.2f} CPU s a round")
    print("| part | products s | GFLOP/s | bound s | other s | share |")
    print("|---|---:|---:|---:|---:|---:|")
    for where in (*PARTS, "other"):
        a, b = products[where], others[where]
        rate = f"{flops[where] / a / 1e9:.0f}" if a else ""
        print(
            f"| {where} | {a:.2f} | {rate} | {flops[where] / peak:.2f} | {b:.2f} "
            f"| {(a + b) / seconds:.1%} |"
        )
    a, b, bound = sum(products.values()), sum(others.values()), sum(flops.values()) / peak
    print(f"| all | {a:.2f} | {bound * peak / a / 1e9:.0f} | {bound:.2f} | {b:.2f} | |")
    print(f"Products at their bound would be {bound / seconds:.1%} of the round.")


if __name__ == "__main__":
    main()
