"""Build the site from the documents where they are, and check it: python docs/site/build.py

Copies the documents into `runs/site/pages` with the folders they have here, so that their links
hold, writes a page for each notebook and for each package's public names, and has Zensical make
`runs/site/html` of it. Any warning fails, as does a link, picture or anchor of a page
that leads nowhere, or an address that a browser would fetch from elsewhere.
"""

import html.parser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import griffe
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES, HTML = ROOT / "runs/site/pages", ROOT / "runs/site/html"
COPIED = (
    "*.md",
    "docs/*.md",
    "docs/*.png",
    "docs/*.svg",
    "compression/*.md",
    "examples/*.py",
    "examples/flower/*.md",
)
COPIED_ALONE = ("CITATION.cff", "LICENSE")
FETCHED_SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme has browsers fetch for its search from disk; ours takes its place."""
MODULES = {
    "fedjax_llm": "The names of the examples.",
    "fedjax_llm.algorithms": "Federated training methods.",
    "fedjax_llm.algorithms.shared": "What methods share, for methods of your own.",
    "fedjax_llm.client_training": "Local steps of one client.",
    "fedjax_llm.server_optimizers": "FedAdam, FedYogi and FedAdagrad.",
    "fedjax_llm.schedules": "Learning rates over a run.",
    "fedjax_llm.aggregators": "Rules that combine updates.",
    "fedjax_llm.attacks": "What malicious clients do.",
    "fedjax_llm.privacy": "Noise, accounting, secrets.",
    "fedjax_llm.secure_aggregation": "Sums that hide their summands.",
    "fedjax_llm.audits": "What messages and models tell.",
    "fedjax_llm.simulation": "Rounds, client axes, conditions.",
    "fedjax_llm.flower": "The same rounds over Flower.",
    "fedjax_llm.ledger": "Bytes of every message.",
    "fedjax_llm.data": "Data by client.",
    "fedjax_llm.tasks": "Models with the losses that train them.",
    "fedjax_llm.models": "Decoders and encoders, and their files.",
    "fedjax_llm.adapters": "Which parameters are trained.",
    "fedjax_llm.evaluation": "Measures by client.",
    "fedjax_llm.runs": "Configurations, runs, trackers.",
    "fedjax_llm.studies": "Sweeps, tuning, intervals, fronts.",
    "fedjax_llm.testing": "Contracts that anyone can check.",
    "fedjax_compression": "Codecs.",
    "fedjax_compression.wire": "Payloads to bytes and back.",
    "fedjax_compression.testing": "The contract of codecs.",
}
"""Packages whose public names have pages."""


def public_names(place: str, module: griffe.Module) -> list[str]:
    """The names that a module exports: its `__all__`, what it imports `as` itself, or defines."""
    if module.exports:
        return sorted(str(name) for name in module.exports)
    folder = ROOT / "compression" if place.startswith("fedjax_compression") else ROOT
    path = folder / place.replace(".", "/")
    for file in (path / "__init__.pyi", path / "__init__.py"):
        if file.exists():
            return sorted(set(re.findall(r" as (\w+)$", file.read_text(), re.MULTILINE)))
    return sorted(
        name
        for name, member in module.members.items()
        if not name.startswith("_") and not member.is_alias
    )


def defined(module: griffe.Module, name: str) -> griffe.Object:
    """What a name of a module stands for, where it is defined."""
    member = module.members[name]
    found = member.final_target if member.is_alias else member
    if found.kind is griffe.Kind.MODULE and name in found.members:
        return defined(found, name)  # a file is named after what it defines
    return found


def api_pages() -> list[dict[str, str]]:
    """Write a page for each of `MODULES`, and return their places in the navigation.

    What two modules export is on the page of the later one in the list, to which the other leads.
    """
    loader = griffe.GriffeLoader(search_paths=[str(ROOT), str(ROOT / "compression")])
    for package in ("fedjax_compression", "fedjax_llm"):
        loader.load(package, try_relative_path=False)
    loader.resolve_aliases(implicit=True, external=False)
    (PAGES / "api").mkdir()
    shown: set[str] = set()
    for place, what in reversed(MODULES.items()):
        module = loader.modules_collection[place]
        full, elsewhere = [], []
        for name in public_names(place, module):
            found = defined(module, name)
            if found.kind is griffe.Kind.MODULE:
                if found.path not in MODULES:
                    raise SystemExit(f"{found.path} is public and has no page: add it to MODULES")
                elsewhere.append(f"[`{name}`]({found.path}.md)")
            elif found.path in shown:
                elsewhere.append(f"[`{name}`][{found.path}]")
            else:
                shown.add(found.path)
                methods = [
                    method.name
                    for method in found.members.values()
                    if not method.is_alias and method.is_function and method.is_public
                ]
                options = f"    options: {{members: [{', '.join(methods)}]}}\n" if methods else ""
                full.append(f"\n::: {found.path}\n{options}")
        listed = f"\nAlso here: {', '.join(elsewhere)}.\n" if elsewhere else ""
        (PAGES / f"api/{place}.md").write_text("".join([f"# {place}\n\n{what}\n", listed, *full]))
    return [{place: f"api/{place}.md"} for place in MODULES]


def notebook_page(script: Path) -> str:
    """A percent script as a page: its text, and its code as blocks."""
    cells = re.split(r"^# %%(.*)\n", script.read_text(), flags=re.MULTILINE)[1:]
    page = []
    for kind, body in zip(cells[::2], cells[1::2], strict=True):
        if "[markdown]" in kind:
            text = re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip()
            page.append(re.sub(r"^\[!\[Open in Colab\].*\n", "", text).strip())
        else:
            page.append(f"```python\n{body.strip()}\n```")
    source = f"[This notebook as a script]({script.name}): `make notebooks` builds it."
    return "\n\n".join([*page, source]) + "\n"


def put_together() -> Path:
    """Copy and write all pages; return the configuration to build them with."""
    shutil.rmtree(PAGES.parent, ignore_errors=True)
    found = [path for pattern in COPIED for path in ROOT.glob(pattern)]
    for path in (*found, *(ROOT / name for name in COPIED_ALONE)):
        target = PAGES / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.suffix == ".md"
        if text:  # notebooks are pages here
            page = re.sub(r"(notebooks/\w+)\.py\)", r"\1.md)", path.read_text())
            target.write_text(page)
        else:
            shutil.copy(path, target)
    folder = PAGES / "examples/notebooks"
    folder.mkdir(parents=True)
    for script in sorted((ROOT / "examples/notebooks").glob("*.py")):
        shutil.copy(script, folder)
        (folder / f"{script.stem}.md").write_text(notebook_page(script))
    shutil.copy(HERE / "site.css", PAGES)
    config = yaml.safe_load((HERE / "mkdocs.yml").read_text())
    for entry in config["nav"]:
        if entry.get("API"):
            entry["API"] = api_pages()
    config |= {"docs_dir": PAGES.name, "site_dir": HTML.name}
    plugin = next(plugin for plugin in config["plugins"] if "mkdocstrings" in plugin)
    python = plugin["mkdocstrings"]["handlers"]["python"]
    python["paths"] = [str(ROOT), str(ROOT / "compression")]
    python["options"]["extensions"] = [str(HERE / "examples.py")]
    written = PAGES.parent / "mkdocs.yml"
    written.write_text(yaml.safe_dump(config, sort_keys=False))
    return written


def fetch_nothing() -> None:
    """Put our script for the search from disk in place of one that browsers would fetch."""
    (HTML / "404.html").unlink(missing_ok=True)  # for servers: its places are absolute
    script = HTML / "assets/search_from_disk.js"
    shutil.copy(HERE / script.name, script)
    for path in HTML.rglob("*.html"):
        up = "../" * (len(path.relative_to(HTML).parts) - 1)
        place = f"{up}assets/{script.name}"
        path.write_text(path.read_text().replace(FETCHED_SHIM, place))


class Places(html.parser.HTMLParser):
    """The ids of a page, the places it leads to, and those it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.links, self.fetched = set(), [], []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Collect from one tag."""
        have = dict(attrs)
        self.ids |= {have[name] for name in ("id", "name") if have.get(name)}
        if tag == "a" and have.get("href"):
            self.links.append(have["href"])
        loads = tag in ("script", "img", "iframe") or (
            tag == "link" and have.get("rel") in ("stylesheet", "icon", "preload", "preconnect")
        )
        if loads and (place := have.get("src") or have.get("href")):
            self.fetched.append(place)


def wrong_places() -> list[str]:
    """What is wrong with links, pictures and anchors of the built pages."""
    pages = {}
    for path in HTML.rglob("*.html"):
        pages[path] = Places()
        pages[path].feed(path.read_text())
    wrong = []
    for path, places in pages.items():
        here = path.relative_to(HTML)
        remote = [p for p in places.fetched if re.match(r"(https?:)?//", p)]
        wrong += [f"{here}: would fetch {place}" for place in remote]
        for link in {*places.links, *places.fetched} - set(remote):
            if re.match(r"(https?:|mailto:|javascript:)", link):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                wrong.append(f"{here}: leads nowhere: {link}")
            elif anchor and anchor != "__" and target in pages and anchor not in pages[target].ids:
                wrong.append(f"{here}: no such anchor: {link}")
    return wrong


def main() -> None:
    """Build and check."""
    config = put_together()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", config.name]
    subprocess.run(command, check=True, cwd=config.parent)  # noqa: S603
    fetch_nothing()
    wrong = wrong_places()
    print("\n".join(sorted(wrong)) or f"{HTML / 'index.html'}: every link leads somewhere")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
