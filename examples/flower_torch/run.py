"""Measure what one line does: python examples/flower_torch/run.py --out runs/flower_torch

Runs the app of this folder over a SuperLink and four SuperNodes on the loopback interface, with its
codec and, as a copy, without: accuracy and uplink bytes, for three seeds each.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path

from digits.task import NODES

from fedjax_llm.flower.loopback import Loopback

HERE = Path(__file__).parent.absolute()
LINES = {
    "client.py": ("ClientApp(mods=[compression_mod(eden(bits=2))])", "ClientApp()"),
    "server.py": ("    strategy = decoding(strategy, eden(bits=2))\n", ""),
}
"""What is compressed and what is not: one line at each end."""


def app(out, *, coded):
    """A copy of the app, with its codec or without."""
    here = out / ("coded" if coded else "plain")
    shutil.copytree(HERE / "digits", here / "digits")
    shutil.copy(HERE / "pyproject.toml", here)
    for name, (line, without) in LINES.items():
        text = (here / "digits" / name).read_text()
        if text.count(line) != 1:
            raise ValueError(f"{name}: expected {line!r} once")
        if not coded:
            (here / "digits" / name).write_text(text.replace(line, without))
    return here


def main():
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/flower_torch"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    out, began = args.out.absolute(), time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    uplink = {}
    with Loopback(out) as loopback:
        loopback.start_nodes({str(node): {"partition-id": node} for node in range(NODES)})
        for name in ("plain", "coded"):
            here = app(out, coded=name == "coded")
            for seed in range(args.seeds):
                config = f'seed={seed} results="{name}.jsonl"'
                loopback.run(here, config=config).wait()
            traffic = [run["network-traffic"] for run in loopback.runs()[: args.seeds]]
            uplink[name] = [each["inbound-bytes"] for each in traffic]
    for name, counted in uplink.items():
        lines = (out / f"{name}.jsonl").read_text().splitlines()
        found = [json.loads(line)["accuracy"] for line in lines]
        shown = ", ".join(f"{each:.4f}" for each in found)
        mean, count = statistics.mean(found), statistics.mean(counted)
        print(f"{name:6} accuracy {mean:.4f} ({shown}), up {count:,.0f} bytes a run")
    ratio = sum(uplink["plain"]) / sum(uplink["coded"])
    print(f"{ratio:.1f} times fewer bytes up, all of Flower's included")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
