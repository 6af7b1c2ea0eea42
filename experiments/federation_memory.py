"""How much memory does a federation of a pretrained model take on one machine?

    python experiments/federation_memory.py [--nodes 16]        five minutes on two cores

SmolLM2-135M with LoRA of rank 8, every node in each of two rounds of two steps. Prints the most
memory that each kind of process had at once, all processes of that kind together, and the most of
all: proportional set sizes, in which a page that n processes share counts as 1/n for each.
"""

import argparse
import collections
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = {
    "fedjax_llm.flower.worker": "workers, which train",
    "flower-supernode": "SuperNodes",
    "flower-superlink": "SuperLink",
    "flwr-serverapp": "server's app",
    "fedjax_llm.cli": "the command itself",
}


def memory(folder: Path) -> dict[str, float]:
    """MB of each kind of process of the federation in a folder."""
    found: dict[str, float] = collections.Counter()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text(errors="replace").replace("\0", " ")
            place = (path / "environ").read_text(errors="replace") + words
            if str(folder) not in place:
                continue
            lines = (path / "smaps_rollup").read_text().splitlines()
        except OSError:  # it has ended
            continue
        (size,) = (int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        name = next((said for word, said in KINDS.items() if word in words), "others")
        found[name] += size * 1024 / 1e6
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nodes", type=int, default=16)
    nodes = str(parser.parse_args().nodes)
    most: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            **{"--local": nodes, "--clients": nodes, "--rounds": "2", "--out": folder + "/out"},
            **{"--model": "smollm2", "--data": "chitchat()", "--adapter": "lora(rank=8)"},
            **{"--local-steps": "2", "--batch": "2", "--seq": "64", "--uplink": "eden(bits=1)"},
            **{"--client-optimizer": "adam(0.0007)", "--evaluate-rows": "16"},
        }
        words = [word for flag in flags.items() for word in flag]
        command = [sys.executable, "-m", "fedjax_llm.cli", "federate", *words]
        with subprocess.Popen(command) as process:  # noqa: S603 - our own command
            while process.poll() is None:
                now = memory(Path(folder))
                now["all"] = sum(now.values())
                most |= {name: max(size, most.get(name, 0)) for name, size in now.items()}
                time.sleep(1)
    for name, size in most.items():
        print(f"{name}: {size:.0f} MB")
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
