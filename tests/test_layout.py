"""What must never be in this repository."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "fedjax_llm": ROOT / "fedjax_llm",
    "fedjax_compression": ROOT / "compression/fedjax_compression",
}


def modules():
    for name, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = (name, *path.relative_to(folder).with_suffix("").parts)
            yield ".".join(parts), path


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


def test_the_compression_package_knows_nothing_of_the_library():
    for name, path in modules():
        if name.startswith("fedjax_compression"):
            assert not any(i.startswith("fedjax_llm") for i in imports(name, path)), name


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


def test_nothing_is_unpickled_or_evaluated():
    for _, path in modules():
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        roots = {
            i.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for i in [a.name for a in node.names]
        }
        assert not names & {"eval", "exec"}, path
        assert not roots & {"pickle", "subprocess", "marshal"}, path


def test_files_stay_short():
    for _, path in modules():
        assert len(path.read_text().splitlines()) < 400, path
