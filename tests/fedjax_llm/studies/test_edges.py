"""Which tuned values are the first or the last that were tried."""

from dataclasses import asdict, replace

import pytest

from fedjax_llm import RunConfig
from fedjax_llm.runs import canonical
from fedjax_llm.studies.edges import on_edge, tuned_fields, with_tuning


def tried(field, values):
    return [replace(RunConfig(), **{field: value}) for value in values]


@pytest.mark.parametrize(
    ("field", "values", "edges"),
    [
        ("client_optimizer", ("adam(0.01)", "adam(1e-3)", "adam(.1)"), ("", "smallest", "largest")),
        ("local_steps", (8, 1, 2), ("largest", "smallest", "")),
        ("prediction", (0.0, 0.5), ("smallest", "largest")),
        # of two numbers each is compared where it varies
        (
            "client_optimizer",
            ("adam(0.1, b1=0.9)", "adam(0.2, b1=0.9)", "adam(0.3, b1=0.9)"),
            ("smallest", "", "largest"),
        ),
        # what differs in more than numbers has no order; a lone value has no edge
        ("client_optimizer", ("adam(0.1)", "sgd(0.1)"), ("", "")),
        (
            "client_optimizer",
            ("adam(0.1)", "adam(0.2)", "adam(0.3)", "sgd(0.2)"),
            ("smallest", "", "largest", ""),
        ),
        # a number that is part of a name is none
        ("model", ("llama32", "llama8"), ("", "")),
    ],
)
def test_the_ends_of_a_grid_are_noted(field, values, edges):
    configs = tried(field, values)
    for config, edge in zip(configs, edges, strict=True):
        notes = on_edge(configs, config)
        assert len(notes) == bool(edge)
        if edge:
            assert notes[0].startswith(f"tuned to {field}=")
            assert f"the {edge} of " in notes[0]


def test_of_several_numbers_the_note_says_which():
    servers = ("sgd(1.0, momentum=0.5)", "sgd(0.5, momentum=0.75)")
    notes = on_edge(configs := tried("server_optimizer", servers), configs[0])
    chosen = "tuned to server_optimizer=sgd(1.0, momentum=0.5), of which"
    assert notes == [
        f"{chosen} 1 is the largest of 2 values: a larger one may be better",
        f"{chosen} 0.5 is the smallest of 2 values: a smaller one may be better",
    ]


def test_each_field_of_a_grid_has_its_own_ends():
    configs = [
        replace(RunConfig(), local_steps=steps, client_optimizer=f"adam({rate})")
        for steps in (1, 2, 4)
        for rate in (0.1, 0.2)
    ]
    chosen = configs[2]  # two steps, and the smaller rate
    assert set(tuned_fields(configs)) == {"local_steps", "client_optimizer"}
    assert tuned_fields(configs[:2]) == ["client_optimizer"]
    (note,) = on_edge(configs, chosen)
    assert note == (
        "tuned to client_optimizer=adam(0.1), the smallest of 2 values: a smaller one may be better"
    )


def test_rows_of_every_seed_get_the_notes_of_their_configuration():
    config = asdict(canonical(RunConfig(seed=5)))
    rows = [{"config": config | more} for more in ({"seed": 1}, {"seed": 2}, {"rounds": 1})]
    about = {"tuned": [{"chosen": config, "on_edge": ["a note"], "tuned_fields": ["rounds"]}]}
    found = with_tuning(rows, about)
    assert [row.get("on_edge") for row in found] == [["a note"], ["a note"], None]
    assert [row.get("tuned_fields") for row in found] == [["rounds"], ["rounds"], None]
    assert with_tuning(rows, {"tuned": []}) == with_tuning(rows, {}) == rows
