"""The documents: their code runs, their tables are whole, their links lead somewhere."""

import ast
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from fedjax_compression import registry

from fedjax_llm import __version__
from fedjax_llm.aggregators import registry as aggregators
from fedjax_llm.algorithms import registry as methods
from fedjax_llm.attacks import registry as attacks
from fedjax_llm.cli.main import main
from fedjax_llm.cli.study import study_in
from fedjax_llm.data import registry as data
from fedjax_llm.studies.intervals import critical
from fedjax_llm.studies.sweep import built
from fedjax_llm.studies.tuning import candidates_of

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "compression/README.md")
    if path.name != "CHANGELOG.md"
]
CODECS = (ROOT / "compression/README.md").read_text()


def examples(document):
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def run(code, document):
    exec(compile(code, document, "exec"), {})  # noqa: S102 - our own text


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_the_readme_counts_methods_and_codecs():
    text = (ROOT / "README.md").read_text()
    assert f"what each of {len(methods.METHODS)} sends" in text
    named = {
        line.split("(")[0].strip("| `")
        for line in CODECS.split("## Measured")[0].splitlines()
        if line.startswith("| `")
    }
    assert named >= set(registry.FACTORIES)
    assert f"(compression/README.md): {len(named)}," in text


def test_the_citation_has_the_version_and_the_license_of_the_package():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()  # what the format asks
    assert (cited["title"], cited["license"]) == (project["name"], project["license"])
    assert cited["version"] == __version__
    assert [each["name"] for each in cited["authors"]] == [a["name"] for a in project["authors"]]


def test_the_example_composes_an_algorithm_and_learns(capsys):
    run(examples("README.md")[0], "README.md")
    rounds = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rounds] == ["1", "2"]
    first, second = (float(row[1]) for row in rounds)
    assert second < first < 5.0  # an untrained model has ln 256 = 5.55
    sent = [int(row[2]) for row in rounds]
    assert abs(sent[0] - sent[1]) < 0.1 * sent[0]  # supports are entropy-coded


def test_the_example_tunes_a_pretrained_model_and_writes_an_adapter(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(examples("README.md")[1], "README.md")
    rounds = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rounds] == ["1", "2"]
    assert all(float(row[1]) < 6 for row in rounds)  # an untrained model of 49,152 tokens has 10.8
    written = {path.name for path in (tmp_path / "runs/adapter").iterdir()}
    assert written == {"adapter_config.json", "adapter_model.safetensors"}


def test_the_example_of_the_compression_package_runs(capsys):
    (code,) = examples("compression/README.md")
    run(code, "compression/README.md")
    sent, plain = map(int, capsys.readouterr().out.split())
    assert sent * 50 < plain


@pytest.mark.slow
def test_the_example_of_the_privacy_document_runs(capsys):
    _, code, _ = examples("docs/privacy.md")
    run(code, "docs/privacy.md")
    (epsilon, relation), (noise,) = map(str.split, capsys.readouterr().out.splitlines())
    assert epsilon.startswith("1.828")
    assert relation == "add_or_remove"
    # the noise for epsilon 2 in one release, by sqrt(20) for 20 rounds
    assert abs(float(noise) / 20**0.5 - 1.9938) < 0.001


def test_the_audit_of_the_privacy_document_finds_both_tokens(capsys):
    _, _, code = examples("docs/privacy.md")
    run(code, "docs/privacy.md")
    assert capsys.readouterr().out == "Recovery(precision=1.0, recall=1.0, recovered=2, true=2)\n"


@pytest.mark.slow
def test_the_secure_sum_of_the_privacy_document_is_the_mean_of_those_that_are_left(capsys):
    code, _, _ = examples("docs/privacy.md")
    run(code, "docs/privacy.md")
    mean, clipped = capsys.readouterr().out.split()
    assert abs(float(mean) - 0.3) < 1e-6 + 3 * 2**-15 / 7000**0.5  # steps of about 2^-15
    assert clipped == "0"


def test_the_study_of_the_documents_can_be_built(tmp_path):
    """One candidate and one reported run are prepared; none is run."""
    path = tmp_path / "study.py"
    (code,) = examples("docs/studies.md")
    path.write_text(code)
    study = study_in(path)
    candidates = candidates_of(study.tune, study.configurations)
    assert [len(each.configs) for each in candidates] == [3] * 4
    runs = study.runs([study.tune.reported(study.configurations[-1])])
    assert len(runs) == 3
    assert len(built([candidates[-1].trials[-1], runs[-1]])) == 2


@pytest.mark.slow
def test_the_study_of_the_documents_runs(tmp_path, capsys):
    """One of its two methods, to save time."""
    path = tmp_path / "study.py"
    (code,) = examples("docs/studies.md")
    assert '("fed_avg()", "fed_prox(mu=0.1)")' in code
    path.write_text(code.replace('("fed_avg()", "fed_prox(mu=0.1)")', '("fed_prox(mu=0.1)",)'))
    out = tmp_path / "out"
    main(["study", str(path), "--out", str(out), "--together"])
    said = capsys.readouterr().out
    assert "against bytes sent both ways" in said
    assert all(codec in said for codec in ("identity()", "eden(bits=1)"))
    assert {each.name for each in out.iterdir()} >= {
        *("results.jsonl", "study.json", "tuning.jsonl", "frontier.png", "both.png"),
    }
    main(["report", str(out)])
    assert (out / "report.html").exists()


def test_the_table_of_seeds_in_the_documents_is_students():
    text = (ROOT / "docs/studies.md").read_text()
    seeds, errors = (
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith(("| seeds", "| standard errors"))
    )
    assert errors == [f"{critical(int(count)):.1f}" for count in seeds]


@pytest.mark.parametrize("number", range(5))
def test_the_components_of_contributing_work(number):
    tables = (
        registry.FACTORIES,
        methods.METHODS,
        aggregators.AGGREGATORS,
        attacks.ATTACKS,
        data.DATA,
    )
    before = [dict(table) for table in tables]
    try:
        run(examples("CONTRIBUTING.md")[number], "CONTRIBUTING.md")
    finally:
        for table, names in zip(tables, before, strict=True):
            table.clear()
            table.update(names)


def test_the_study_of_choose_a_codec_can_be_built():
    (code,) = examples("docs/choose-a-codec.md")
    names = {}
    exec(compile(code, "docs/choose-a-codec.md", "exec"), names)  # noqa: S102 - our own text
    study = names["study"]
    assert [c.uplink for c in study.configurations] == list(names["codecs"])
    assert all(registry.codec(c.uplink) for c in study.configurations)


def test_the_figures_of_choose_a_codec_are_the_measured_ones():
    text = (ROOT / "docs/choose-a-codec.md").read_text()
    measured = (ROOT / "docs/measurements.md").read_text()
    rows = re.findall(
        r"\| (`\S+`) \| ([\d.]+) \| ([\d.]+) \| (\+[\d.]+)(?: \(one seed\))? \|\n", text
    )
    assert len(rows) == 5
    for codec, bits, fewer, above in rows:
        (row,) = (r for r in measured.splitlines() if r.startswith(f"| {codec} |") and above in r)
        cells = [cell.strip() for cell in row.split("|")]
        assert [cells[4], cells[3], cells[6]] == [bits, fewer, above], codec
    for figure in (
        "+0.8986",
        "+0.0068",
        "+0.0184",
        "+0.0769",
        "+0.3406",
        "+0.0369",
        "+0.0394",
        "+0.1134",
        "+0.0537",
        "+0.0263",
        "+0.3326",
        "1.15 times",
        "1.27",
        "4.3",
    ):
        assert figure in text
        assert figure in measured
    for figure in (".112", ".364"):
        assert figure in text
        assert figure in CODECS


def test_the_examples_of_how_to_name_clients_and_resume(capsys):
    data, resume = examples("docs/how-to.md")
    run(data, "docs/how-to.md")
    assert capsys.readouterr().out == "('ann', 'bob') [5 2]\n"
    run(resume, "docs/how-to.md")
    assert capsys.readouterr().out == "4 True\n"


def test_the_example_of_sharp_edges_is_refused_and_mended(capsys):
    (code,) = examples("docs/sharp-edges.md")
    run(code, "docs/sharp-edges.md")
    assert "over_run_steps" in capsys.readouterr().out


def test_the_example_for_those_who_come_from_fedjax_learns(capsys):
    (code,) = examples("docs/coming-from.md")
    run(code, "docs/coming-from.md")
    rounds = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rounds] == ["1", "2", "3"]
    assert float(rounds[-1][1]) < float(rounds[0][1])
    # four clients: 25 bytes of codes, two floats and a header of 12 bytes
    assert {row[2] for row in rounds} == {str(4 * (25 + 8 + 12))}


def test_every_package_with_public_names_has_a_page_of_the_site():
    tree = ast.parse((ROOT / "docs/site/build.py").read_text())
    (pages,) = (
        set(ast.literal_eval(node.value))
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
    )
    inside = {"fedjax_llm.bench", "fedjax_llm.cli", "fedjax_llm.model_files"}
    found = {
        f"fedjax_llm.{path.parent.name}" for path in (ROOT / "fedjax_llm").glob("*/__init__.py")
    }
    assert found - inside <= pages
    assert pages <= found | {name for name in pages if find_spec(name)}


def test_the_navigation_of_the_site_has_every_document_and_notebook():
    text = (ROOT / "docs/site/mkdocs.yml").read_text()
    for path in (*ROOT.glob("docs/*.md"), *ROOT.glob("examples/notebooks/*.py")):
        assert f": {path.relative_to(ROOT).with_suffix('.md')}\n" in text, path


def test_every_codec_is_in_the_table():
    for name in registry.FACTORIES:
        assert f"\n| `{name}(" in CODECS, name


def test_every_rule_and_attack_is_in_a_table():
    text = (ROOT / "docs/components.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`(\w+)", row.split("|")[1])}
    assert {*aggregators.AGGREGATORS, *attacks.ATTACKS} <= named


def test_every_method_says_what_travels():
    text = (ROOT / "docs/methods.md").read_text()
    for name in methods.METHODS:
        rows = re.findall(
            rf"\n(\| `{name}[(`][^\n]*\|[^\n]*\|[^\n]*\|[^\n]*\|[^\n]*\|)(?=\n)", text
        )
        assert any(all(cell.strip() for cell in row.split("|")[1:-1]) for row in rows), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target
    for path in re.findall(r"`((?:fedjax_llm|compression|tests|experiments|docs)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_stands_twice_in_a_document(document):
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL).splitlines()
    told = [line for line in prose if line.startswith("#") or len(line) >= 80]
    assert sorted({line for line in told if told.count(line) > 1}) == []
