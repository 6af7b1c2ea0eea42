"""Records from files and tables, and the errors of bad records."""

import copy
import csv as stdlib_csv
import gzip
import io
import json
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_llm.data import (
    Example,
    Fields,
    Message,
    alpaca,
    by_key,
    chitchat,
    csv,
    fedit,
    fedit_test,
    jsonl,
    parquet,
    pooled,
    sharegpt,
    table,
)
from fedjax_llm.data.readers import files
from fedjax_llm.data.readers.stored import StoredRecords
from fedjax_llm.runs.contents import records_digest

TEXT = Fields(text="text", client="user", label="topic")
ASKED = Fields(instruction="ask", context="with", response="say")
CHATS = Fields(messages="messages")
ROWS = [
    {"user": "b", "text": "Second.", "topic": 1},
    {"user": "a", "text": "First — of a.", "topic": 0},
    {"user": "b", "text": "Third.", "topic": 0},
]


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture
def written(tmp_path):
    def write(data, name="chats.jsonl"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_records_are_grouped_by_the_client_field(written):
    path = written(lines(*ROWS) + b"\n")
    found = jsonl(path, TEXT)
    assert list(found) == ["a", "b"]
    assert found["b"] == [
        Example("Second.", "1", f"{path}: line 1"),
        Example("Third.", "0", f"{path}: line 3"),
    ]
    assert [example.text for example in pooled(found)] == ["First — of a.", "Second.", "Third."]
    assert list(jsonl(path, Fields(text="text"))) == ["chats"]


def test_instructions_become_chats_with_their_context(written):
    path = written(
        lines(
            {"ask": "Sum up.", "with": "Long ago …", "say": "Then."},
            {"ask": "Hi", "with": "", "say": "Hello"},
            {"ask": "Hi", "with": None, "say": "Hello"},
            {"ask": "Hi", "say": "Hello"},
        )
    )
    first, *others = [example.text for example in jsonl(path, ASKED)["chats"]]
    assert first == (Message("user", "Sum up.\n\nLong ago …"), Message("assistant", "Then."))
    assert others == [(Message("user", "Hi"), Message("assistant", "Hello"))] * 3


def test_messages_are_kept_unchanged(written):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (example,) = jsonl(written(lines({"messages": said})), CHATS)["chats"]
    assert example.text == (Message("user", "Hi"), Message("assistant", "Hello"))


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "user": st.text(min_size=1).filter(str.strip),  # white space at ends is ignored
                "text": st.text(min_size=1).filter(str.strip),
                "topic": st.integers(0, 9),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_file_a_parquet_file_and_a_table_say_the_same(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.jsonl").write_bytes(b"".join(json.dumps(r).encode() + b"\n" for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    ways = (
        jsonl(folder / "rows.jsonl", TEXT),
        parquet(folder / "rows.parquet", TEXT),
        table(rows, TEXT),
    )
    said = [{c: [e[:2] for e in own] for c, own in examples.items()} for examples in ways]
    assert said[0] == said[1] == said[2]
    assert sum(map(len, ways[0].values())) == len(rows)


IDS = [1, np.int64(1), np.int8(1), 1.0, np.float32(1), "1", " 1 ", np.str_("1")]


@pytest.mark.parametrize("name", IDS)
def test_one_name_is_one_client_however_it_is_stored(tmp_path, name):
    row = {"user": name, "text": "x", "topic": name}
    expected = {"1": [("x", "1")]}

    def said(examples):
        return {client: [each[:2] for each in own] for client, own in examples.items()}

    assert said(table([row], TEXT)) == expected
    stored = {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()}
    pq.write_table(pa.Table.from_pylist([stored]), tmp_path / "r.parquet")
    assert said(parquet(tmp_path / "r.parquet", TEXT)) == expected
    (tmp_path / "r.jsonl").write_bytes(lines(stored))
    assert said(jsonl(tmp_path / "r.jsonl", TEXT)) == expected
    assert list(by_key([Example("x")], lambda example: name)) == ["1"]
    if not isinstance(stored["user"], float):  # CSV has text alone
        (tmp_path / "r.csv").write_text(f"text,user,topic\nx,{name},{name}\n")
        assert said(csv(tmp_path / "r.csv", TEXT)) == expected


def test_a_text_of_a_table_may_be_long_and_the_process_keeps_its_limit(tmp_path):
    """Python's reader refuses 131,073 characters unless a limit of the whole process is raised."""
    text = "many, words\n" * 20_000
    (tmp_path / "r.csv").write_text(f'text,user\n"{text}",ann\nshort,bob\n')
    before = stdlib_csv.field_size_limit()
    found = csv(tmp_path / "r.csv", Fields(text="text", client="user"))
    assert [found[name][0].text for name in ("ann", "bob")] == [text, "short"]
    assert stdlib_csv.field_size_limit() == before == 131_072
    (tmp_path / "bad.csv").write_text('text,user\n"open,ann\n')
    with pytest.raises(ValueError, match=r"bad\.csv: expected a CSV table, got an error: unexp"):
        csv(tmp_path / "bad.csv", Fields(text="text", client="user"))
    assert stdlib_csv.field_size_limit() == before


def test_a_key_names_one_client_by_one_kind_of_value():
    pool = [Example("x", label="1"), Example("y", label="2")]
    with pytest.raises(
        ValueError, match="by_key: example 2: expected one client by this name, got"
    ):
        by_key(pool, lambda example: example.label if example.text == "x" else 1)
    with pytest.raises(
        ValueError, match="example 1: field 'key': expected the name of a client, go"
    ):
        by_key(pool, lambda example: example.text == "x")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_file_may_be_an_array_and_compressed(written, mark, ending, packed):
    text = ROWS[1] | {"text": "line\u2028separator\r\n"}
    rows = lines(ROWS[0], text).splitlines()
    plain = jsonl(written(lines(ROWS[0], text)), TEXT)
    said = {client: [each[:2] for each in own] for client, own in plain.items()}
    array = b"[" + ending + (b"," + ending).join(rows) + b"]" + ending
    cells = [f'{row["user"]},{row["topic"]},"{row["text"]}"' for row in (ROWS[0], text)]
    comma = ending.join(line.encode() for line in ["user,topic,text", *cells])
    found = csv(written(packed(mark + comma), "chats.csv.gz"), TEXT)
    newline = {c: [(t.replace("\r\n", "\n"), label) for t, label in own] for c, own in said.items()}
    assert {client: [each[:2] for each in own] for client, own in found.items()} == newline
    for data, place in ((ending.join(rows), "line"), (array, "record")):
        found = jsonl(written(packed(mark + data), "chats.json.gz"), TEXT)
        assert {client: [each[:2] for each in own] for client, own in found.items()} == said
        assert found["a"][0].source.endswith(f"chats.json.gz: {place} 2")
    assert list(jsonl(written(packed(array), "chats.json.gz"), Fields(text="text"))) == ["chats"]


def test_a_parquet_file_may_be_compressed_and_a_pointer_is_named(written):
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), data)
    path = written(gzip.compress(data.getvalue()), "rows.parquet.gz")
    assert list(parquet(path, TEXT)) == ["a", "b"]
    path = written(b"version https://git-lfs.github.com/spec/v1\n", "rows.parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet: expected data, got a Git LFS pointer"):
        parquet(path, TEXT)


def turns(example):
    return [(message.role, message.content) for message in example.text]


def test_alpaca_and_sharegpt_are_read_by_name():
    row = {
        "instruction": "Add.",
        "input": "1 2",
        "output": "3",
        "system": "Be brief.",
        "history": np.array([["Hi", "Hello"]]),
        "who": 7,
    }
    ((example,),) = table([row], alpaca(client="who")).values()
    expected = [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Add.\n\n1 2"),
        ("assistant", "3"),
    ]
    assert turns(example) == expected
    ((bare,),) = table([{"instruction": "Hi", "output": "Hello"}], alpaca()).values()
    assert turns(bare) == [("user", "Hi"), ("assistant", "Hello")]
    call = {"name": "sum", "arguments": {"a": 1}}
    said = [
        {"from": "human", "value": "1?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "It is 2.", "weight": 0},
    ]
    row = {"conversations": said, "system": "Be brief.", "tools": json.dumps([{"name": "sum"}])}
    ((example,),) = table([row], sharegpt()).values()
    assert turns(example) == [
        ("system", "Be brief."),
        ("user", "1?"),
        ("assistant", ""),
        ("tool", "2"),
        ("assistant", "It is 2."),
    ]
    assert example.text[2].fields == {"tool_calls": [call]}
    assert [message.learnt for message in example.text] == [True, True, True, True, False]
    assert example.tools == ({"name": "sum"},)


class Columns(list):
    """The attributes of a `datasets.Dataset` that are used."""

    @property
    def column_names(self):
        return list(self[0])

    def select_columns(self, names):
        assert "secret" not in names
        return Columns({name: row[name] for name in names} for row in self)


def test_only_the_named_columns_of_a_table_are_read():
    rows = Columns({**row, "secret": "x"} for row in ROWS)
    assert list(table(rows, TEXT)) == ["a", "b"]
    with pytest.raises(
        ValueError, match=r"mine: field 'body': expected this field, got only 'user'"
    ):
        table(rows, Fields(text="body"), name="mine")


def test_a_dictionary_of_splits_is_refused():
    class Splits(dict):
        column_names = {"train": ["text"], "test": ["text"]}  # noqa: RUF012

    with pytest.raises(ValueError, match="splits train, test; choose one"):
        table(Splits(), Fields(text="text"))


BAD = {
    "no json": (
        b'\n{"text": \n',
        TEXT,
        r"chats\.jsonl: line 2: expected JSON, got",
    ),
    "deep": (b"[" * 100_000, TEXT, r"chats\.jsonl: expected JSON, got"),
    "no object": (b"[1, 2]\n", TEXT, r"record 1: expected an object with fields, got 1"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n",
        TEXT,
        r"chats\.jsonl: expected data, got a Git LFS pointer; fetch",
    ),
    "cut gzip": (gzip.compress(lines(*ROWS))[:-9], TEXT, r"chats\.jsonl: expected a complete gzip"),
    "true": (
        lines({"user": True, "text": "a", "topic": 1}),
        TEXT,
        r"line 1: field 'user': expected the name of a client, got True",
    ),
    "1 and '1'": (
        lines(*({"user": user, "text": "a", "topic": 1} for user in (1, "2", 1, "1"))),
        TEXT,
        r"line 4: field 'user': expected one client by this name, got the number 1 and",
    ),
    "no utf-8": (b'{"text": "\xff"}\n', TEXT, r"line 1: expected UTF-8, got byte 0xff at 10"),
    "surrogate": (
        b'{"text": "\\ud800"}\n',
        Fields(text="text"),
        r"line 1: field 'text': expected Unicode text, got a lone surrogate",
    ),
    "missing": (
        lines({"user": "a", "topic": 1}),
        TEXT,
        r"'text': expected this field, got only 'user', 't",
    ),
    "no client": (
        lines({"text": "a", "topic": 1}),
        TEXT,
        r"field 'user': expected this field, got only",
    ),
    "null": (lines({"user": "a", "text": None, "topic": 1}), TEXT, r"expected text, got None"),
    "blank": (lines({"user": "a", "text": " \n", "topic": 1}), TEXT, r"expected text, got ' \\n'"),
    "number": (lines({"ask": 3, "say": "x"}), ASKED, r"field 'ask': expected text, got 3"),
    "context": (
        lines({"ask": "x", "with": [1], "say": "x"}),
        ASKED,
        r"'with': expected text, got \[",
    ),
    "messages": (lines({"messages": "hi"}), CHATS, r"expected a list of messages, got 'hi'"),
    "message": (lines({"messages": ["hi"]}), CHATS, r"message 1: expected role and content"),
    "content": (
        lines({"messages": [{"role": "user"}]}),
        CHATS,
        r"line 1: field 'messages': message 1: field 'content': expected this field, got only 'r",
    ),
    "no answer": (
        lines({"messages": [{"role": "user", "content": "hi"}]}),
        CHATS,
        r"expected at least one message of the assistant, got roles \['user'\]",
    ),
    "empty": (b"\n", TEXT, r"chats: expected at least one record, got none"),
}


@pytest.mark.parametrize("large", [files.LARGE, 0])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_refused_by_file_line_and_field(written, name, large, monkeypatch):
    data, fields, message = BAD[name]
    monkeypatch.setattr(files, "LARGE", large if name != "lfs" else files.LARGE)
    with pytest.raises(ValueError, match=message):
        jsonl(written(data), fields)


@pytest.mark.parametrize("data", [lines(*ROWS), b"\xef\xbb\xbf" + lines(*ROWS) + b"\n \n"])
def test_records_that_stay_on_disk_are_those_of_memory(written, data, monkeypatch):
    path = written(data)
    in_memory = jsonl(path, TEXT)
    monkeypatch.setattr(files, "LARGE", 0)
    found = jsonl(path, TEXT)
    assert isinstance(found, StoredRecords)
    assert {client: list(records) for client, records in found.items()} == in_memory
    assert list(found) == ["a", "b"]
    assert found["b"][-1] == in_memory["b"][-1]
    assert found["b"][:1] == in_memory["b"][:1]
    assert len(found["b"]) == 2
    with pytest.raises(IndexError):
        found["b"][2]
    with pytest.raises(KeyError):
        found["c"]
    assert records_digest(found, who="data") == records_digest(in_memory, who="data")
    assert isinstance(jsonl(written(gzip.compress(data), "a.gz"), TEXT), dict)
    assert isinstance(jsonl(written(json.dumps(ROWS).encode(), "a.json"), TEXT), dict)


def test_records_on_disk_are_read_by_threads_forks_and_copies(written, monkeypatch):
    rows = [{"user": f"u{n % 3}", "text": f"text {n:04d}", "topic": n} for n in range(3000)]
    in_memory = jsonl(written(lines(*rows)), TEXT)
    monkeypatch.setattr(files, "LARGE", 0)
    found = jsonl(written(lines(*rows)), TEXT)
    whole = {client: list(records) for client, records in in_memory.items()}
    copies = [copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))]  # noqa: S301
    del copies[0]
    for each in (*copies, found):
        assert {client: list(records) for client, records in each.items()} == whole
    assert pickle.loads(pickle.dumps(found["u1"])) == whole["u1"]  # noqa: S301
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: found["u1"][n % 1000], range(4000))) == whole["u1"] * 4
    assert "3 clients" in repr(found)
    file = weakref.ref(found["u1"]._file)
    del found, each, copies
    assert file() is None  # without a collection of cycles


def test_a_record_on_disk_takes_the_memory_that_is_said(written, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 0)
    rows = ({"user": f"u{n % 9}", "text": f"a text {n}", "topic": 1} for n in range(30_000))
    found = jsonl(written(lines(*rows)), TEXT)
    assert {name for name in vars(found["u0"]) if name != "_file"} == {"_places"}
    held = sum(sys.getsizeof(each._places) for each in found.values())
    assert held / 30_000 <= 24 * 9 / 8 + 1  # arrays grow by an eighth


def test_a_file_that_is_written_to_while_it_is_read_is_refused(written, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 0)
    path = written(lines(*ROWS))
    found = jsonl(path, TEXT)
    with path.open("ab") as file:
        file.write(lines(*ROWS))
    with pytest.raises(ValueError, match=r"chats\.jsonl: expected the file as it was when"):
        found["a"][0]


def test_a_bad_parquet_file_is_refused_by_name(written, tmp_path):
    with pytest.raises(ValueError, match=r"bad\.parquet: "):
        parquet(written(b"PAR1 no more", "bad.parquet"), TEXT)
    pq.write_table(pa.table({"user": ["a", "b"], "text": ["x", None]}), tmp_path / "t.parquet")
    with pytest.raises(
        ValueError, match=r"t\.parquet: field 'topic': expected this field, got only 'user"
    ):
        parquet(tmp_path / "t.parquet", TEXT)
    with pytest.raises(ValueError, match=r"t\.parquet: row 2: field 'text': expected text, got N"):
        parquet(tmp_path / "t.parquet", Fields(text="text", client="user"))
    with pytest.raises(FileNotFoundError):
        parquet(tmp_path / "none.parquet", TEXT)


@pytest.mark.parametrize(
    "named",
    [{}, {"text": "a", "messages": "b"}, {"instruction": "a"}, {"text": "a", "context": "b"}],
)
def test_fields_name_one_kind_of_text(named):
    with pytest.raises(ValueError, match="Fields: expected text, or messages, or instruction"):
        Fields(**named)


def test_a_folder_of_fedit_has_a_client_in_each_file(tmp_path):
    dolly = {"instruction": "Name one.", "context": "", "response": "One.", "category": "open_qa"}
    alpaca = {"instruction": "Add.", "input": "1 2", "output": "3"}
    (tmp_path / "local_training_0.json").write_text(json.dumps([dolly, dolly]))
    (tmp_path / "local_training_1.json").write_text(json.dumps([alpaca]))
    (tmp_path / "global_test.json").write_text(json.dumps([dolly]))
    found = fedit(tmp_path)
    assert list(found) == ["local_training_0", "local_training_1"]
    assert [example.label for example in pooled(found)] == ["open_qa", "open_qa", ""]
    assert found["local_training_1"][0].text[0].content == "Add.\n\n1 2"
    (tmp_path / "global_training.json").write_text(json.dumps([alpaca]))
    assert list(fedit(tmp_path)) == list(found)
    test = fedit_test(tmp_path)
    assert list(test) == ["global_test"]
    assert test["global_test"][0].text == found["local_training_0"][0].text


def test_what_a_folder_has_beside_its_clients_is_named(tmp_path):
    record = {"instruction": "Name one.", "output": "One."}
    for name in ("local_training_0", "local_training_10", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps([record]))
    (tmp_path / "split_metadata.json").write_text('{"seed": 42}')
    with pytest.warns(
        UserWarning, match=r"2 files .* passes over other\.json, split_metadata\.json"
    ):
        assert list(fedit(tmp_path)) == ["local_training_0", "local_training_10"]
    with pytest.warns(UserWarning, match="passes over local_training_0"):
        assert list(fedit(tmp_path, pattern="oth*.json")) == ["other"]
    with pytest.raises(
        ValueError, match=r"expected files of clients, c\*\.json, got local_training_0"
    ):
        fedit(tmp_path, pattern="c*.json")


def test_a_bad_folder_of_fedit_is_refused_by_file_and_record(tmp_path):
    with pytest.raises(
        ValueError, match=r"expected files of clients, local_training_\*\.json, got n"
    ):
        fedit(tmp_path)
    path = tmp_path / "local_training_0.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"training_0\.json: expected at least one record, got"):
        fedit(tmp_path)
    path.write_text(json.dumps([{"instruction": "a", "response": "b"}, {"instruction": "a"}]))
    with pytest.raises(
        ValueError, match=r"json: record 2: field 'response': expected this field, got"
    ):
        fedit(tmp_path)


@pytest.mark.slow
def test_chats_have_their_users():
    chats = chitchat()
    assert len(chats) == 613
    assert sum(map(len, chats.values())) == 5017
    for own in chats.values():
        said = [sum(len(m.content) for m in e.text if m.role == "assistant") for e in own]
        assert sum(said) >= 1000
        assert sum(said[:-1]) < 100_000
        for example in own:
            roles = [message.role for message in example.text]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
            assert all(message.content.strip() for message in example.text)


@pytest.mark.slow
def test_limits_that_no_user_meets_are_refused():
    with pytest.raises(ValueError, match="expected limits that a user meets, got 1000000000"):
        chitchat(at_least=10**9)
