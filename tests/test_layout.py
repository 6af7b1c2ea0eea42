"""What must hold of the tree: one folder for each kind, imports that only go down, short files."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "fedjax_llm": ROOT / "fedjax_llm",
    "fedjax_compression": ROOT / "compression/fedjax_compression",
}
LAYERS = {
    "fedjax_compression": (
        *("errors", "contract", "checks", "ops", "wire", "entropy", "quantizers", "sparsifiers"),
        *("projections", "wrappers", "text", "registry", "testing"),
    ),
    "fedjax_llm": (
        *(
            "_version",
            "signals",
            "locks",
            "checks",
            "server_optimizers",
            "client_optimizers",
            "precision",
            "schedules",
            "seeded_directions",
            "privacy",
            "secure_aggregation",
            "client_training",
            "algorithm",
            "ledger",
            "aggregators",
        ),
        *(
            "model_files",
            "models",
            "audits",
            "data",
            "attacks",
            "adapters",
            "tasks",
            "algorithms",
            "evaluation",
        ),
        *("simulation", "flower", "testing", "runs", "studies", "bench", "cli", "__main__"),
    ),
}
"""Files and folders of each package, the lowest first: each imports only from those before it."""
KINDS = {
    "compression/fedjax_compression": ("contract.py", "registry.py", "testing.py"),
    "fedjax_llm/aggregators": ("contract.py", "registry.py"),
    "fedjax_llm/attacks": ("contract.py", "registry.py"),
    "fedjax_llm/algorithms": ("contract.py", "registry.py"),
    "fedjax_llm/adapters": ("contract.py", "registry.py"),
    "fedjax_llm/data": ("contract.py", "registry.py"),
    "fedjax_llm/tasks": ("contract.py", "registry.py"),
    "fedjax_llm/simulation/client_axes": ("contract.py", "registry.py"),
    "fedjax_llm/simulation/conditions": ("contract.py", "registry.py"),
    "fedjax_llm/runs/tracking": ("contract.py", "registry.py"),
    "fedjax_llm/model_files": ("contract.py",),
}


@functools.cache
def modules():
    return [
        (".".join((name, *path.relative_to(folder).with_suffix("").parts)), path)
        for name, folder in PACKAGES.items()
        for path in sorted(folder.rglob("*.py"))
    ]


@functools.cache
def imports(name: str, path: Path) -> set[str]:
    """Modules of this project that a file imports, by their full names."""
    known = {other.removesuffix(".__init__") for other, _ in modules()}
    package = name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = ".".join([*base, *filter(None, [node.module])])
            members = {f"{target}.{alias.name}" for alias in node.names}
            found |= {m for m in members if m in known} or {target}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {f for f in found if f.split(".")[0] in PACKAGES}


def test_the_standard_librarys_compression_stays_reachable():
    assert not (ROOT / "compression/__init__.py").exists()
    assert not [path for _, path in modules() if path.name == "compression.py"]
    assert not (ROOT / "compression.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_only_go_down(package):
    """Within a package from a later layer to an earlier one; never from codecs to the library."""
    layers = LAYERS[package]
    for name, path in modules():
        room = name.split(".")[1]
        if name.split(".")[0] != package or room == "__init__":
            continue
        assert room in layers, f"{name}: give it a place in LAYERS"
        for other in imports(name, path):
            there, *below = other.split(".")
            if there == package and below and below[0] != room:
                assert below[0] in layers, f"{name} imports {other}"
                assert layers.index(below[0]) < layers.index(room), f"{name} imports {other}"
            assert package == "fedjax_llm" or there != "fedjax_llm", f"{name} imports {other}"


@pytest.mark.parametrize("folder", KINDS)
def test_each_kind_has_its_contract_and_its_registry(folder):
    for file in KINDS[folder]:
        assert (ROOT / folder / file).exists(), f"{folder}/{file}"


def test_imports_go_in_no_circle():
    graph = {name.removesuffix(".__init__"): imports(name, path) for name, path in modules()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for other in sorted(graph.get(name, ())):
                if other not in (name, *(a for a in above if name.startswith(f"{a}."))):
                    visit(other, (*above, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_nothing_is_unpickled_or_evaluated_and_one_file_starts_processes():
    for name, path in modules():
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        roots = {
            i.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for i in [a.name for a in node.names]
        }
        assert not names & {"eval", "exec"}, path
        assert not roots & {"pickle", "marshal"}, path
        assert "subprocess" not in roots or name == "fedjax_llm.flower.loopback", path


def test_files_stay_short():
    for _, path in modules():
        assert len(path.read_text().splitlines()) < 450, path


def test_tests_have_the_packages_folders():
    """A folder of tests for each folder of a package that has tests; no test imports a test."""
    for package, folder in PACKAGES.items():
        for tested in (ROOT / "tests" / package).iterdir():
            if tested.is_dir() and tested.name != "__pycache__":
                assert (folder / tested.name).is_dir(), tested
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                assert not node.module.split(".")[-1].startswith("test_"), path


def test_star_imports_bring_public_names_alone():
    for package in ("fedjax_llm", "fedjax_llm.data", "fedjax_llm.simulation", "fedjax_compression"):
        room = __import__(package, fromlist=["__all__"])
        names: dict = {}
        exec(f"from {package} import *", names)  # noqa: S102 - our own text
        names.pop("__builtins__")
        assert set(names) == set(room.__all__)
        modules_brought = {n for n, value in names.items() if type(value).__name__ == "module"}
        assert modules_brought <= {"models", "wire"}, package
