"""Python in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(*words, env=None, **ways):
    """Start Python with some arguments and this checkout; standard output and error are pipes."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "compression")])
    ours = {"PYTHONPATH": path, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(  # noqa: S603
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **ours, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **ways,
    )
