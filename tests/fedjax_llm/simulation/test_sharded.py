"""Clients over eight devices, and over two processes, against one device.

The devices are forced on the host, in processes started for each test.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from fedjax_llm.simulation import sharded

ROOT = Path(__file__).parents[3]
ROUNDED = "error_feedback(stochastic_quantize(bits=8))"


def start(out, axis, uplink, clients, *process, devices=1):
    path = os.pathsep.join([str(ROOT), str(ROOT / "compression")])
    env = {
        **os.environ,
        "PYTHONPATH": path,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, str(ROOT / "tests/helpers/sharded_runs.py"), str(out), axis, uplink]
    return subprocess.Popen(  # noqa: S603
        [*command, str(clients), *map(str, process)], env=env, stderr=subprocess.PIPE, text=True
    )


def result(out, *processes):
    for process in processes:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
    with np.load(out) as leaves:
        return list(leaves.values()), json.loads(out.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return {
        uplink: result(folder / f"{i}.npz", start(folder / f"{i}.npz", "vmap", uplink, 11))
        for i, uplink in enumerate(("identity()", ROUNDED))
    }


def farthest(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True) if a.size)


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["sharded", "sharded scan", "sharded chunked", "sharded base"])
def test_eight_devices_compute_the_round_of_one(one_device, tmp_path, axis):
    """Eleven clients, not a multiple of eight. A gradient summed over the devices would be eight
    times too large.
    """
    out = tmp_path / "out.npz"
    leaves, about = result(out, start(out, axis, "identity()", 11, devices=8))
    expected, expected_about = one_device["identity()"]
    assert farthest(expected, leaves) < 1e-5
    assert about["rounds"] == expected_about["rounds"]
    np.testing.assert_allclose(about["loss"], expected_about["loss"], rtol=1e-4)
    assert about["traces"] == [about["traces"][0]] * 4  # nothing is traced after the first round
    np.testing.assert_allclose(about["nats"], expected_about["nats"], rtol=1e-5)
    # 9 rows are rounded up to 12 for 4 devices that hold the same, to 16 for 8
    assert set(about["rows of a device"]) == {3 if axis == "sharded base" else 2}


@pytest.mark.slow
@pytest.mark.parametrize("uplink", ["identity()", ROUNDED])
def test_two_processes_compute_the_round_of_one_and_count_every_message(
    one_device, tmp_path, uplink
):
    """Clients keep residuals and move between the processes from round to round. Rounding may move
    an entry to the next of its 255 levels, so the distance of a codec that rounds is a mean.
    """
    out = tmp_path / "out.npz"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [start(out, "sharded", uplink, 11, port, process) for process in range(2)]
    leaves, about = result(out, *pair)
    expected, expected_about = one_device[uplink]
    pairs = [np.abs(a - b).ravel() for a, b in zip(expected, leaves, strict=True)]
    distances = np.concatenate(pairs)
    assert (distances.max() < 1e-5) if uplink == "identity()" else (distances.mean() < 5e-5)
    assert about["rounds"] == expected_about["rounds"]
    rtol = 1e-5 if uplink == "identity()" else 1e-3
    np.testing.assert_allclose(about["nats"], expected_about["nats"], rtol=rtol)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"axis": "data"}, "axis: expected clients, got 'data'"),
        (
            {"inner": sharded()},
            r"inner: expected vmap\(\), scan\(\) or chunked\(size\), got Placement",
        ),
    ],
)
def test_a_wrong_axis_or_inner_client_axis_is_refused(wrong, expected):
    mesh = jax.make_mesh((1,), ("clients",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match=expected):
        sharded(**{"mesh": mesh, **wrong})


@pytest.mark.slow
def test_the_command_times_a_client_axis_over_all_devices(tmp_path):
    """On a processor that is made to have two devices."""
    sizes = "--rounds 2 --clients 3 --local-steps 1 --population 30 --batch 1 --seq 8"
    command = f"train {sizes} --client-axis auto() --out {tmp_path}"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "fedjax_llm.cli", *command.split()],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        check=True,
        text=True,
    )
    assert re.search(r"auto\(\) is .*sharded\(inner=scan\(\)\) [0-9.]+ s", done.stderr)
