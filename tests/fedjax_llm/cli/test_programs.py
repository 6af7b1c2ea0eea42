"""Compiled programs that commands keep."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from fedjax_llm.cli.output import MOST_PROGRAMS, OFF, keep_programs

NAMES = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def no_programs_are_kept(tmp_path, monkeypatch):
    """Settings as they are without an environment, put back afterwards."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache_folder_up_to_a_size(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_programs(None)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "fedjax-llm" / "programs")
    assert (tmp_path / "fedjax-llm" / "programs").is_dir()
    assert jax.config.jax_compilation_cache_max_size == MOST_PROGRAMS


def test_the_folder_of_jax_itself_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", "/somewhere")
    keep_programs(None)
    assert jax.config.jax_compilation_cache_dir == "/somewhere"
    keep_programs(tmp_path / "given")  # a flag comes before the environment
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "given")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given"]


def test_off_keeps_none_until_a_folder_is_given(tmp_path):
    keep_programs(OFF)
    assert not jax.config.jax_enable_compilation_cache
    keep_programs(None)  # as after JAX_ENABLE_COMPILATION_CACHE=0
    assert not jax.config.jax_enable_compilation_cache
    keep_programs(tmp_path)
    assert jax.config.jax_enable_compilation_cache


def test_a_folder_that_cannot_be_written_is_a_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    keep_programs(tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_programs(None)
    one, other = capsys.readouterr().err.splitlines()
    for said, why in ((one, "File exists"), (other, "Not a directory")):
        assert said.startswith("fedjax-llm: compiled programs are not kept: ")
        assert why in said
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.long
def test_a_second_command_compiles_nothing_that_the_first_one_kept(tmp_path):
    """To the same digest; a cut program is compiled again.

    The round is `jit_program`. Programs that compile in about a tenth of a second may come later.
    """
    programs = tmp_path / "cache" / "fedjax-llm" / "programs"
    one, kept = trained(tmp_path, "one"), compiled(programs)
    other = trained(tmp_path, "other")
    rounds = [name for name in kept if name.startswith("jit_program-")]
    assert rounds
    assert rounds == [name for name in compiled(programs) if name.startswith("jit_program-")]
    assert compiled(programs).items() >= kept.items()
    assert one == other
    for path in programs.glob("*-cache"):
        path.write_bytes(path.read_bytes()[:100])
    assert trained(tmp_path, "third") == one


def trained(folder: Path, name: str) -> str:
    """The digest of a short run in a process of its own, whose cache folder is in the folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    run = [sys.executable, "-m", "fedjax_llm", "train", "--rounds", "1", "--clients", "2"]
    ended = subprocess.run(  # noqa: S603
        [*run, "--out", str(folder / name)],
        env=environment | {"XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in ended.stdout.splitlines() if "digest " in line]
    return line.split("digest ")[1].strip()


def compiled(programs: Path) -> dict[str, bytes]:
    """The kept programs."""
    return {path.name: path.read_bytes() for path in programs.glob("*-cache")}
