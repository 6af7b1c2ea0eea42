"""Fields of messages and records that change what is learnt: honoured, or refused by name."""

import numpy as np
import pytest

from fedjax_llm.data import Fields, PairFields, table, tokenize, tokenize_pairs
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
        ([user(), answer(name="\ud800")], r"message 2: expected Unicode text"),
        ([user(), answer(None)], r"message 2: field 'content': expected text, got None"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_record_and_field(bpe, messages, expected):
    with pytest.raises(ValueError, match=rf"^table: row 1: field 'messages': .*{expected}"):
        learnt(bpe, messages)


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
