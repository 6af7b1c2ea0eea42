"""Leaves out what needs Flower where Flower is not installed, and says so."""

import importlib.util

NEED_FLOWER = (
    "fedjax_llm/flower/",
    "tests/fedjax_llm/flower/",
    "tests/examples/test_federation_notebook.py/",
    "tests/examples/test_flower.py/",
    "tests/examples/test_flower_torch.py/",
    "tests/flower_bits.py/",
    "tests/federation.py/",
    "tests/flower_messages.py/",
    "tests/helpers/fault_app/",
    "tests/helpers/flower_app/",
    "tests/helpers/flower_nodes.py/",
    "tests/helpers/in_memory_grid.py/",
    "fedjax_llm/runs/federated/client.py/",
    "fedjax_llm/runs/federated/local.py/",
    "fedjax_llm/runs/federated/server.py/",
)
HAS_FLOWER = importlib.util.find_spec("flwr") is not None


def pytest_ignore_collect(collection_path, config):
    """Leave out what needs Flower where it is not installed; the report's header says so."""
    inside = f"{collection_path.relative_to(config.rootpath).as_posix()}/"
    return True if not HAS_FLOWER and inside.startswith(NEED_FLOWER) else None


def pytest_report_header(config):
    """Say what is left out."""
    if HAS_FLOWER:
        return None
    left_out = ", ".join(path.rstrip("/") for path in NEED_FLOWER[:3])
    return f"flwr is not installed: make flower runs {left_out}"
