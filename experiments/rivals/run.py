"""How fast are rounds here beside plain PyTorch, Flower, pfl-research and FedJAX, at equal work?

    .venv/bin/python experiments/rivals/run.py [--only ours torch] [--rounds 12] [--passes 2]

Exports the work, makes an environment for each rival under `runs/rivals`, runs one rival after
another on the same two cores, and prints a table. `README.md` beside this file has the rules and
the result.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from environments import NotInstalledError, interpreter
from exchange import read_params, write_work
from measuring import FailedError, Run, measured
from processes import adopt_orphans, end_all
from table import Row, markdown, row_of
from workload import final_loss, work

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Rival:
    """How a rival is started.

    Attributes:
        label: Its name in the table.
        script: The file that runs it.
        launcher: Arguments of the interpreter before the script.
        settings: Environment variables.

    """

    label: str
    script: str
    launcher: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
RIVALS = {
    "ours": Rival("fedjax-llm", "ours.py", settings={"JAX_NUM_CPU_DEVICES": "2"}),
    "torch": Rival("plain PyTorch", "plain_torch.py", settings=ONE_THREAD),
    "flower": Rival(
        "Flower, Ray",
        "flower_ray.py",
        settings=ONE_THREAD | {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"},
    ),
    "pfl": Rival(
        "pfl-research",
        "with_pfl.py",
        launcher=TWO_PROCESSES,
        settings=ONE_THREAD | {"GLOO_SOCKET_IFNAME": "lo"},
    ),
    "fedjax": Rival(
        "FedJAX",
        "with_fedjax.py",
        settings={"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--rounds", type=int, default=12, help="rounds of a run")
    parser.add_argument("--warm-up", type=int, default=2, help="first rounds that do not count")
    parser.add_argument("--passes", type=int, default=2, help="times that each rival runs")
    parser.add_argument("--seconds", type=float, default=900, help="limit of a run or an install")
    parser.add_argument("--python", default=sys.executable, help="what makes the environments")
    parser.add_argument("--out", type=Path, default=Path("runs/rivals"))
    args = parser.parse_args()
    if not 0 <= args.warm_up < args.rounds:
        parser.error(f"--warm-up: expected fewer than --rounds {args.rounds}, got {args.warm_up}")
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    exported = work(args.rounds)
    write_work(out / "work.npz", exported)
    pythons, runs, errors = {"ours": Path(sys.executable)}, {n: [] for n in args.only}, {}
    try:
        for name in args.only:
            if name != "ours":
                try:
                    pythons[name] = interpreter(name, out, python=args.python, seconds=args.seconds)
                except NotInstalledError as error:
                    errors[name] = f"not installed: {error}"
        for number in range(args.passes):
            for name in (name for name in args.only if name not in errors):
                print(f"{name}: run {number + 1} of {args.passes}", end=" ", flush=True)
                try:
                    run = start(name, pythons[name], out, seconds=args.seconds)
                except FailedError as error:
                    errors[name] = f"failed: {error}"
                    print(errors[name], flush=True)
                else:
                    runs[name].append(run)
                    print(
                        f"took {run.seconds[-1]:.0f} s, {run.cpu_seconds[-1]:.0f} CPU s", flush=True
                    )
    finally:
        end_all()
    params = {n: read_params(out / f"{n}.npz") for n in args.only if n not in errors}
    rows = [
        Row(RIVALS[name].label, error=errors[name])
        if name in errors
        else row_of(
            RIVALS[name].label,
            runs[name],
            warm_up=args.warm_up,
            loss=final_loss(params[name], exported),
            params=params[name],
            ours=params.get("ours"),
        )
        for name in args.only
    ]
    print(markdown(rows))
    written = [
        row._asdict() | {"runs": [run._asdict() for run in runs[name]]}
        for name, row in zip(args.only, rows, strict=True)
    ]
    (out / "rivals.json").write_text(json.dumps(written, indent=1) + "\n")


def start(name: str, python: Path, out: Path, *, seconds: float) -> Run:
    """Run a rival once."""
    rival = RIVALS[name]
    environment = os.environ | rival.settings
    if name != "ours":  # it has no use for ours
        environment.pop("PYTHONPATH", None)
    script, arrays = HERE / rival.script, (out / "work.npz", out / f"{name}.npz")
    command = [str(part) for part in (python, *rival.launcher, script, *arrays)]
    return measured(command, environment, log=out / f"{name}.log", seconds=seconds)


if __name__ == "__main__":
    main()
