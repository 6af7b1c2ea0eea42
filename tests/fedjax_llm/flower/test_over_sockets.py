"""TLS and node authentication with real processes on the loopback interface."""

import re
import subprocess
from contextlib import suppress

import pytest

from fedjax_llm.flower.loopback import Loopback, Secured

from ...helpers.linear_app import APP, ENVIRONMENT, ROOT, rows

SECONDS = 400
"""Most that any wait may take."""


def made_by_the_recipe(folder, names):
    """The files that the commands of docs/flower.md make."""
    folder.mkdir()
    section = (ROOT / "docs/flower.md").read_text().split("## On several machines")[1]
    certificates, key = re.findall(r"```\n(.*?)```", section, re.DOTALL)[:2]
    for commands in (certificates, *(key.replace("ann", name) for name in names)):
        subprocess.run(["/bin/sh", "-euc", commands], cwd=folder, check=True, capture_output=True)  # noqa: S603 - our own page
    files = [folder / name for name in ("ca.crt", "superlink.crt", "superlink.key")]
    return Secured(*files, {name: folder / name for name in names})


@pytest.mark.slow
def test_only_registered_nodes_take_part_over_tls(tmp_path):
    names = ("ann", "bob", "eve")
    secured = made_by_the_recipe(tmp_path / "keys", names)
    with Loopback(tmp_path, environment=ENVIRONMENT, secured=secured) as loopback:
        for name in names[:2]:
            loopback.register(name)
        loopback.start_nodes({name: {"client": name} for name in names[:2]})
        with suppress(ChildProcessError):  # where she ended sooner than she was looked for
            loopback.start_nodes({"eve": {"client": "eve"}})
        assert loopback.nodes["eve"].supernode.wait(SECONDS) != 0
        assert "305" in (tmp_path / "node-eve.log").read_text()
        config = 'rounds=2 clients="ann bob"'
        loopback.run(APP, config=config).wait(SECONDS)
    assert [row["counted"] for row in rows(tmp_path)] == [["ann", "bob"]] * 2
