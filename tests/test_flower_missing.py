import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_federate_says_how_to_install_flower():
    code = (
        "import sys; sys.modules['flwr'] = None; from fedjax_llm.cli import main; "
        "main(['federate'])"
    )
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "fedjax-llm: fedjax_llm.flower: flwr: expected Flower 1.40 or newer, got none; "
        "install it with pip install 'fedjax-llm[flower]'.\n",
    )


def test_flower_is_refused_by_name_where_it_is_missing():
    code = "import sys; sys.modules['flwr'] = None; import fedjax_llm.flower"
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: fedjax_llm.flower: flwr: expected Flower 1.40 or newer, got none; "
        "install it with pip install 'fedjax-llm[flower]'."
    )
