"""Public docstrings: every argument is named, and there is an example that runs as a doctest."""

import inspect
import re

import pytest
from fedjax_compression import registry as codecs

import fedjax_llm
from fedjax_llm import (
    adapters,
    aggregators,
    algorithms,
    audits,
    data,
    evaluation,
    secure_aggregation,
    simulation,
    tasks,
)
from fedjax_llm.data.registry import DATA

DOWNLOADS = ("shakespeare", "chitchat", "smollm2", "minilm")
"""Whose examples would need a package that is not always installed."""


def functions(module, names=None):
    for name in names or module.__all__:
        value = getattr(module, name)
        if inspect.isfunction(value):
            yield f"{module.__name__}.{name}", value


PUBLIC = {
    **{f"codec {name}": factory for name, factory in codecs.FACTORIES.items()},
    **dict(functions(algorithms)),
    **dict(functions(aggregators)),
    **dict(functions(adapters)),
    **dict(functions(audits)),
    **dict(functions(secure_aggregation)),
    **dict(functions(tasks)),
    **dict(functions(simulation)),
    **dict(functions(evaluation)),
    **dict(functions(data)),
    **dict(functions(fedjax_llm)),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_is_named_and_there_is_an_example(name):
    factory = PUBLIC[name]
    text = inspect.getdoc(factory) or ""
    parameters = [p for p in inspect.signature(factory).parameters if not p.startswith("_")]
    section = re.search(r"^Args:\n(.*?)(?=^\w+:\n|\Z)", text, re.DOTALL | re.MULTILINE)
    missing = [p for p in parameters if not section or f"    {p}:" not in section.group(1)]
    assert not missing, f"{name}: expected in Args: {', '.join(missing)}"
    if not name.endswith(DOWNLOADS):
        assert ">>> " in text, f"{name}: expected an example"


def test_the_data_registry_is_documented_too():
    for name, factory in DATA.items():
        assert inspect.getdoc(factory), name
