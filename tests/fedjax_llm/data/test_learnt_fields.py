"""Fields of messages and records that change what is learnt: honoured, or refused by name."""

import json
from datetime import date, datetime, time
from decimal import Decimal

import numpy as np
import pytest

from fedjax_llm.data import (
    Fields,
    PairFields,
    QuestionFields,
    jsonl,
    parquet,
    table,
    tokenize,
    tokenize_choices,
    tokenize_pairs,
)
from tests.helpers.fast_tokenizers import byte_level

CHATS = Fields(messages="messages")
TOOLS = (
    "{% if tools %}<s>tools\n{% for t in tools %}{{ t | tojson }}{% endfor %}</s>\n{% endif %}"
    "{% for m in messages %}<s>{{ m.role }}{% if m.name and m.role != 'tool' %} {{ m.name }}"
    "{% endif %}{{ '\n' }}{% if m.reasoning_content %}[{{ m.reasoning_content }}]{% endif %}"
    "{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
CALL = {"id": "1", "function": {"name": "sum", "arguments": '{"a": 1}'}}
SUM = {"type": "function", "function": {"name": "sum", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def bpe():
    return byte_level()


def user(content="hello", **fields):
    return {"role": "user", "content": content, **fields}


def answer(content="there", **fields):
    return {"role": "assistant", "content": content, **fields}


def learnt(bpe, messages, template=TOOLS, **record):
    """The text that is learnt of a record, and its whole text."""
    examples = table([{"messages": messages, **record}], CHATS)
    corpus = tokenize(examples, bpe, seq=999, template=template)
    return bpe.decode(corpus.tokens[corpus.counted]), bpe.decode(corpus.tokens)


@pytest.mark.parametrize("off", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_an_answer_of_no_weight_is_no_target(bpe, off):
    messages = [user(), answer("cat", **off), user(), answer("mat", weight=1, train=True)]
    said, whole = learnt(bpe, messages)
    assert said == "mat</s>"
    assert "<s>assistant\ncat</s>" in whole


def test_a_chat_may_open_with_an_answer_that_is_not_learnt(bpe):
    assert learnt(bpe, [answer("cat", weight=0), user(), answer("mat")])[0] == "mat</s>"


def test_tool_calls_are_learnt_and_their_arguments_are_objects(bpe):
    tool = {"role": "tool", "content": "3", "tool_call_id": "1", "name": "sum"}
    messages = [user(), answer(None, tool_calls=[CALL]), tool, answer("3 it is")]
    said, whole = learnt(bpe, messages, tools=[SUM])
    assert said == 'sum({"a": 1})</s>3 it is</s>'
    assert whole.startswith('<s>tools\n{"type": "function", "function": {"name": "sum"')


def test_reasoning_and_names_are_in_the_text(bpe):
    messages = [user(name="ann"), answer(reasoning_content="so")]
    assert learnt(bpe, messages) == (
        "[so]there</s>",
        "<s>user ann\nhello</s>\n<s>assistant\n[so]there</s>\n",
    )


def test_fields_of_numpy_and_empty_ones_are_read_alike(bpe):
    row = np.array([user(name=None, tool_calls=[]), answer(weight=np.int64(0)), user(), answer()])
    assert learnt(bpe, row, tools=None)[0] == "there</s>"


@pytest.mark.parametrize(
    ("messages", "tools", "expected"),
    [
        ([user(), answer(tool_calls=[CALL])], None, r"message 2: field 'tool_calls'"),
        ([user(), answer(reasoning_content="so")], None, r"message 2: field 'reasoning_content'"),
        ([user(name="ann"), answer()], None, r"message 1: field 'name'"),
        ([user(), answer()], [SUM], r"tools"),
    ],
)
def test_what_the_template_ignores_is_refused_by_record_and_field(bpe, messages, tools, expected):
    with pytest.raises(ValueError, match=rf"^table: row 1: {expected}: expected a chat template"):
        learnt(bpe, messages, template=None, tools=tools)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user(), answer(weight=0.5)], r"message 2: field 'weight': expected 0 or 1, got 0\.5"),
        ([user(), answer(train="no")], r"message 2: field 'train': expected 0 or 1, got 'no'"),
        ([user(train=True), answer()], r"message 1: field 'train': expected 0, as it is not of"),
        ([user(), answer(tool_calls="f()")], r"field 'tool_calls': expected a list of objects"),
        (
            [user(), answer(tool_calls=[{"function": {"name": "f", "arguments": "1"}}])],
            r"a JSON obj",
        ),
        ([user(), answer(name="\ud800")], r"message 2: field 'name': expected Unicode text"),
        ([user(), answer(None)], r"message 2: field 'content': expected text, got None"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_record_and_field(bpe, messages, expected):
    with pytest.raises(ValueError, match=rf"^table: row 1: field 'messages': .*{expected}"):
        learnt(bpe, messages)


def called(arguments):
    return answer(tool_calls=[{"function": {"name": "f", "arguments": arguments}}])


NO_JSON = r"message 2: field '{}': expected texts, finite numbers, .*, got {}; write it as text or"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (called({"x": float("nan")}), NO_JSON.format("tool_calls", "nan")),
        (called('{"x": [-Infinity]}'), r"field 'arguments': expected texts, finite .*, got -inf;"),
        (called({"x": Decimal("1.5")}), NO_JSON.format("tool_calls", r"Decimal\('1.5'\)")),
        (called({"x": b"1"}), NO_JSON.format("tool_calls", "b'1'")),
        (answer(reasoning_content=b"so"), NO_JSON.format("reasoning_content", "b'so'")),
        (answer(score=float("inf")), NO_JSON.format("score", "inf")),
    ],
)
def test_values_that_json_lacks_are_refused_by_record_message_and_field(message, expected):
    """Before, the field was left out and the rest of the answer learnt."""
    with pytest.raises(ValueError, match=rf"^table: row 1: field 'messages': .*{expected}"):
        table([{"messages": [user(), message]}], CHATS)


def test_nan_in_a_json_line_is_refused_by_line(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [user(), called({"x": float("nan")})]}))
    with pytest.raises(
        ValueError, match=r"line 1: field 'messages': message 2: field 'tool_calls'"
    ):
        jsonl(path, CHATS)


def test_times_are_text_as_in_json_also_in_parquet(bpe, tmp_path):
    """A column of times is one of times again; the template writes what JSON would have."""
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    when = datetime(2024, 7, 26, 9, 30)
    message = called({"day": date(2024, 7, 26), "at": time(9, 30), "when": when})
    path = tmp_path / "chats.parquet"
    rows = pyarrow.Table.from_pylist([{"messages": [{**user(), "tool_calls": None}, message]}])
    pyarrow.parquet.write_table(rows, path)
    written = '{"day": "2024-07-26", "at": "09:30:00", "when": "2024-07-26T09:30:00"}'
    for examples in (parquet(path, CHATS), table(rows.to_pylist(), CHATS)):
        corpus = tokenize(examples, bpe, seq=999, template=TOOLS)
        assert bpe.decode(corpus.tokens[corpus.counted]) == f"theref({written})</s>"
    stamp = np.datetime64("2024-07-26T09:30", "ns")
    said, _ = learnt(bpe, [user(), called({"when": stamp})])
    assert said == 'theref({"when": "2024-07-26T09:30:00"})</s>'


GIVEN = (
    "{% for d in documents or [] %}<doc>{{ d.text }}</doc>{% endfor %}"
    "{% for f in functions or [] %}<fun>{{ f.name }}</fun>{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<still>{% endif %}" + TOOLS
)
FOR_TEMPLATE = {
    "documents": [{"text": "bees hum"}],
    "functions": [{"name": "sum"}],
    "chat_template_kwargs": {"enable_thinking": False},
}


@pytest.mark.parametrize("as_text", [False, True])
def test_documents_functions_and_keywords_of_a_record_go_to_the_template(bpe, as_text):
    given = {k: json.dumps(v) if as_text else v for k, v in FOR_TEMPLATE.items()}
    said, whole = learnt(bpe, [user(), answer()], template=GIVEN, **given)
    assert said == "there</s>"
    opening = "<doc>bees hum</doc><fun>sum</fun><still><s>user"
    assert whole.startswith(opening)
    pair = {"prompt": "hello", "chosen": "cat", "rejected": "mat", **given}
    pairs = tokenize_pairs(table([pair], PairFields()), bpe, seq=999, template=GIVEN)
    question = {"prompt": "hello", "options": ["cat", "mat"], "answer": 0, **given}
    asked = tokenize_choices(table([question], QuestionFields()), bpe, seq=999, template=GIVEN)
    for corpus in (pairs.corpus, asked.corpus):
        assert bpe.decode(corpus.tokens).count(opening) == 2
    instructed = {"ask": "hello", "say": "there", **given}
    chat = table([instructed], Fields(instruction="ask", response="say"))
    assert bpe.decode(tokenize(chat, bpe, seq=999, template=GIVEN).tokens) == whole


@pytest.mark.parametrize("name", list(FOR_TEMPLATE))
def test_what_of_a_record_the_template_does_not_read_is_refused_by_name(bpe, name):
    """A template whose text has the word, as in "the documents", does not read it for that."""
    template = "the documents, functions and enable_thinking" + TOOLS
    given = {name: FOR_TEMPLATE[name]}
    variable = "enable_thinking" if name == "chat_template_kwargs" else name
    with pytest.raises(ValueError, match=rf"^table: row 1: {variable}: expected a chat template"):
        learnt(bpe, [user(), answer()], template=template, **given)
    empty = {name: type(FOR_TEMPLATE[name])()}
    assert learnt(bpe, [user(), answer()], template=template, **empty)[0] == "there</s>"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"documents": ["text"]}, r"'documents': expected a list of objects, got \['text'\]"),
        ({"documents": [{"at": float("nan")}]}, r"'documents': expected texts, .*, got nan"),
        ({"chat_template_kwargs": [1]}, r"'chat_template_kwargs': expected an object, got \[1\]"),
        ({"chat_template_kwargs": {"tokenize": 0}}, r"nothing else sets, got 'tokenize'"),
        ({"chat_template_kwargs": {"strftime_now": 0}}, r"nothing else sets, got 'strftime_now'"),
    ],
)
def test_what_no_template_takes_of_a_record_is_refused_by_field(bpe, given, expected):
    with pytest.raises(ValueError, match=rf"^table: row 1: field .*{expected}"):
        learnt(bpe, [user(), answer()], template=GIVEN, **given)


def test_fields_for_the_template_have_other_names_or_none(bpe):
    """A name that has another meaning is not one for the template."""
    record = {"messages": [user(), answer()], "documents": "about bees", "papers": [{"text": "x"}]}
    for fields in (
        Fields(messages="messages", documents=None),
        Fields(messages="messages", system="documents"),
        Fields(messages="messages", label="documents"),
    ):
        assert table([record], fields)["table"][0].variables is None
    renamed = Fields(messages="messages", documents="papers")
    assert table([record], renamed)["table"][0].variables == {"documents": [{"text": "x"}]}


def test_tools_that_are_no_list_are_refused(bpe):
    with pytest.raises(ValueError, match=r"row 1: field 'tools': expected a list of objects"):
        learnt(bpe, [user(), answer()], tools={"name": "sum"})


def test_answers_of_a_pair_are_text_and_nothing_else_of_it_is_learnt(bpe):
    pair = {"prompt": [user(), answer("early"), user()], "chosen": "cat", "rejected": "mat"}
    pairs = tokenize_pairs(
        table([{**pair, "tools": [SUM]}], PairFields()), bpe, seq=999, template=TOOLS
    )
    corpus = pairs.corpus
    assert bpe.decode(corpus.tokens[corpus.counted]) == "cat</s>mat</s>"
    assert bpe.decode(corpus.tokens).count('"name": "sum"') == 2
    for bad in (answer(tool_calls=[CALL]), answer(weight=0)):
        with pytest.raises(ValueError, match="field 'chosen': expected an answer of text alone"):
            table([{**pair, "chosen": [bad]}], PairFields())
