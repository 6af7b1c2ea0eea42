"""A virtual environment for each rival, made once."""

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


class NotInstalledError(Exception):
    """An environment could not be made; the message says why in one line."""


def interpreter(name: str, folder: Path, *, python: str, seconds: float) -> Path:
    """The interpreter of a rival's environment, which is made unless its pins are installed.

    Args:
        name: The rival, whose pins are in `requirements-NAME.txt`.
        folder: Where environments are.
        python: The interpreter to make it with.
        seconds: How long pip may take.

    Returns:
        The path of the environment's interpreter.

    Raises:
        NotInstalledError: If pip fails or takes too long.

    """
    requirements = HERE / f"requirements-{name}.txt"
    environment = folder / f"env-{name}"
    installed = environment / "installed.txt"
    inside = environment / "bin/python"
    if installed.exists() and installed.read_text() == requirements.read_text():
        return inside
    shutil.rmtree(environment, ignore_errors=True)
    print(f"{name}: installing {requirements.name} in {environment}", flush=True)
    pip = [inside, "-m", "pip", "install", "--quiet", "--requirement", requirements]
    try:
        for command in ([python, "-m", "venv", environment], pip):
            subprocess.run(  # noqa: S603
                [str(word) for word in command],
                check=True,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "ERROR" in line]
        raise NotInstalledError((lines or [str(error)])[-1]) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(str(error)) from error
    installed.write_text(requirements.read_text())
    return inside
