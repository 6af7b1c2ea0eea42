"""TLS and node authentication with real processes on the loopback interface."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from fedjax_llm.flower.loopback import Loopback, Secured

from ...helpers.linear_app import APP, ENVIRONMENT, ROOT, rows

SECONDS = 400
"""Most that any wait may take."""
PLACES = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])


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


def behind_the_proxy(folder, secured, port, behind):
    """The configuration of nginx in docs/flower.md, on a port of the loopback interface."""
    section = (ROOT / "docs/flower.md").read_text().split("## On several machines")[1]
    (server,) = re.findall(r"```\n(server \{.*?)```", section, re.DOTALL)
    for named, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("https://127.0.0.1:8000", f"https://{behind}"),
        ("certificate superlink.crt", f"certificate {secured.certificate}"),
        ("certificate_key superlink.key", f"certificate_key {secured.key}"),
        ("trusted_certificate ca.crt", f"trusted_certificate {secured.ca}"),
    ):
        assert server.count(named) == 1, named
        server = server.replace(named, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder / kind};\n" for kind in kinds)
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off;\nerror_log {folder / 'nginx.log'};\npid {folder / 'nginx.pid'};\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{places}{server}}}\n"
    )
    return file


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nginx", path=PLACES), reason="nginx is not installed")
def test_nodes_come_through_the_proxy_which_refuses_what_is_too_long_and_all_else(tmp_path):
    names = ("ann", "bob")
    secured = made_by_the_recipe(tmp_path / "keys", names)
    federation = Loopback(tmp_path, environment=ENVIRONMENT, secured=secured)
    with federation as loopback, ExitStack() as stack:
        port = free_port()
        file = behind_the_proxy(tmp_path, secured, port, loopback.address)
        program = shutil.which("nginx", path=PLACES)
        log = str(tmp_path / "nginx.log")
        proxy = subprocess.Popen([program, "-e", log, "-c", str(file)])  # noqa: S603
        stack.callback(proxy.wait, 60)
        stack.callback(proxy.terminate)  # it clears its environment, which has Loopback's mark
        loopback.wait_for(port, proxy, "nginx")
        for name in names:
            loopback.register(name)
        configs = {name: {"client": name} for name in names}
        loopback.start_nodes(configs, superlink=f"127.0.0.1:{port}")
        loopback.run(APP, config='rounds=2 clients="ann bob"').wait(SECONDS)
        assert [row["counted"] for row in rows(tmp_path)] == [["ann", "bob"]] * 2
        trust = ssl.create_default_context(cafile=str(secured.ca))
        peak = peak_kib(loopback.superlink.pid)
        for path, body, status in (
            ("/v1/fleet/push-object", bytes(9 * 2**20), 413),
            ("/v1/fleet/push-object", bytes(100 * 2**20), 413),
            ("/v1/fleet/push-object", b"", 401),
            ("/v1/control/start-run", b"", 404),
            ("/v1/runtime/pull-messages", b"", 404),
        ):
            with httpx.Client(verify=trust) as client:
                kind = {"content-type": "application/protobuf"}
                answer = client.post(f"https://127.0.0.1:{port}{path}", content=body, headers=kind)
            assert answer.status_code == status, (path, len(body), answer.text)
        assert peak_kib(loopback.superlink.pid) - peak < 2**13


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def peak_kib(process):
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])
