"""What an installed package says of itself, without the clone; `make release-check` runs it."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import fedjax_compression
import jax
import numpy as np
from fedjax_compression import codec, payload_structure, wire

import fedjax_llm

BIN = Path(sys.executable).parent
TEXT = "to be or not to be, that is the question whether it is nobler in the mind " * 8


def command(*words):
    """Run `fedjax-llm` in this folder and return what it printed."""
    done = subprocess.run(  # noqa: S603
        [str(BIN / "fedjax-llm"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main():
    for package in (fedjax_llm, fedjax_compression):
        place = Path(package.__file__).resolve()
        assert place.is_relative_to(Path(sys.prefix).resolve()), place
        assert (place.parent / "py.typed").exists()
    assert version("fedjax-llm") == fedjax_llm.__version__
    assert command("--version") == f"fedjax-llm {fedjax_llm.__version__}\n"
    for name in dir(fedjax_llm):  # each public name can be imported
        getattr(fedjax_llm, name)

    update = {"w": jax.random.normal(jax.random.key(0), (64, 64))}
    for text in ("identity()", "eden(bits=1)", "entropy_coded(rate=2)"):
        c = codec(text)
        payload, _ = c.encode(jax.random.key(1), update, c.init(update))
        message = wire.dumps(payload)
        received = c.decode(wire.loads(message, payload_structure(c, update)), update)
        sent = c.decode(payload, update)
        assert len(message) == wire.nbytes(payload)
        assert np.array_equal(received["w"], sent["w"]), text

    lines = [json.dumps({"text": TEXT, "user": user}) for user in "abcd"]
    Path("texts.jsonl").write_text("\n".join(lines))
    data = "jsonl('texts.jsonl', fields(text='text', client='user'))"
    small = ("--data", data, "--rounds", "2", "--clients", "2", "--seq", "16", "--batch", "2")
    command("train", *small, "--uplink", "eden(bits=1)", "--out", "run")
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["rounds"] == 2
    assert summary["uplink_bytes"] > 0
    assert Path("run/model/model.safetensors").exists()
    command("report", "run")
    assert "<html" in Path("run/report.html").read_text()
    print(
        f"fedjax-llm {version('fedjax-llm')}, jax {version('jax')}, Python {sys.version.split()[0]}"
    )


if __name__ == "__main__":
    main()
