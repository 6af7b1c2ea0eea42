"""Where answers begin and end in a chat, whatever its messages quote."""

from datetime import date

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedjax_llm.data import Example, Message, tokenize
from fedjax_llm.data.tokenisation import chat
from fedjax_llm.data.tokenisation.chat import dated, pieces
from fedjax_llm.data.tokenisation.encode import renderer
from tests.helpers.chat_templates import FAMILIES
from tests.helpers.fast_tokenizers import byte_level

TALK = (
    Message("user", "hi"),
    Message("assistant", "yes"),
    Message("user", "on"),
    Message("assistant", "no"),
)


@pytest.fixture(scope="module")
def bpe():
    return byte_level()


def learnt(messages, render, end="</s>"):
    return [p.text for p in pieces(messages, render, end=end, source="x") if p.answer]


def by_prefixes(messages, render):
    """The pieces by two renderings for each answer, without marks; for templates that append."""
    whole, cut, at = render(messages, False), [], 0
    for n, message in enumerate(messages):
        if message.role == "assistant" and message.learnt:
            start, stop = len(render(messages[:n], True)), len(render(messages[: n + 1], False))
            stop = len(whole[:stop].rstrip()) if whole[:stop].rstrip().endswith("</s>") else stop
            cut += [(whole[at:start], False), (whole[start:stop], True)]
            at = stop
    return [piece for piece in [*cut, (whole[at:], False)] if piece[0]]


def chats_in_turn():
    """Chats of a few patterns of roles, some of which repeat with other contents."""
    contents = ["hi", " yes\n", "</s>", "a\ue000b", "<|end|>\n", "no"]
    patterns = ["ua", "uaua", "sua", "uauua", "ua", "uAua", "uaua", "uauA", "sua", "uaua"]
    roles = {"u": "user", "a": "assistant", "A": "assistant", "s": "system"}
    for number, pattern in enumerate(patterns * 2):
        yield [
            Message(roles[c], contents[(number + 5 * n) % 6], learnt=c != "A")
            for n, c in enumerate(pattern)
        ]


@pytest.mark.parametrize("family", ["gpt2", "mistral", "qwen 2", "cohere", "llama 3"])
def test_chats_of_the_same_roles_share_a_rendering_of_marks(bpe, family, monkeypatch):
    """The pieces are those of each chat alone, and those of prefixes; most are rendered once."""
    calls, kept, known = [], {}, []
    for messages in chats_in_turn():
        render = renderer(bpe, FAMILIES[family], "x")

        def counting(*given, render=render):
            calls.append(1)
            return render(*given)

        calls.clear()
        found = pieces(messages, counting, end="</s>", source="x", kept=kept)
        assert found == pieces(messages, render, end="</s>", source="x")
        assert found == by_prefixes(messages, render)
        key = [(m.role, m.learnt) for m in messages], any("\ue000" in m.content for m in messages)
        assert key not in known or len(calls) == 1
        known.append(key)
    assert len(kept) < len(known)
    kept.clear()
    monkeypatch.setattr(chat, "MOST", 6)
    for messages in chats_in_turn():
        again = pieces(messages, render, end="</s>", source="x", kept=kept)
        assert again == pieces(messages, render, end="</s>", source="x")
        assert sum(len(each.messages) for each in kept.values()) <= 6


def test_a_chat_with_fields_or_an_empty_content_is_not_kept(bpe):
    render, kept = renderer(bpe, FAMILIES["gpt2"], "x"), {}
    for fields, content in (({"name": "ann"}, "yes"), (None, "")):
        messages = [TALK[0], Message("assistant", content, fields)]
        pieces(messages, render, end="</s>", source="x", kept=kept)
    assert not kept


def test_what_a_template_makes_of_marks_is_not_kept_for_other_tools_or_variables(bpe):
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ word }}{{ tools | length if tools else 'none' }}"
        "{{ m.content }}{{ word }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    talk = TALK[:2]
    examples = [
        Example(talk),
        Example(talk, variables={"word": "one"}),
        Example(talk, tools=({"name": "f"},)),
        Example(talk, variables={"word": "three"}),
        Example(talk),
    ]
    together = tokenize({"ann": examples}, bpe, seq=999, template=template)
    for n, example in enumerate(examples):
        alone = tokenize({"ann": [example]}, bpe, seq=999, template=template)
        part = slice(*together.documents[n : n + 2])
        assert together.tokens[part].tolist() == alone.tokens.tolist()
        assert together.counted[part].tolist() == alone.counted.tolist()


def another_alphabet(messages, chosen):
    """The same chat with every letter of some messages replaced, at the same length."""

    def changed(text):
        return "".join(c if c.isspace() else chr(0xF0000 + ord(c)) for c in text)

    return [m._replace(content=changed(m.content)) if chosen(m) else m for m in messages]


@st.composite
def chats(draw, transcript):
    """Chats whose messages may quote a transcript of the template, whole or cut anywhere."""
    part = st.tuples(*[st.integers(0, len(transcript))] * 2).map(
        lambda ends: transcript[min(ends) : max(ends)]
    )
    words = st.sampled_from(["yes", "no", " ", "\n", "</s>", "<|end|>\n", "</think>", transcript])
    content = st.lists(st.one_of(words, part), min_size=1, max_size=3).map("".join)
    said = content.filter(str.strip)
    opening = [Message("system", draw(said))] if draw(st.booleans()) else []
    turns = draw(st.integers(1, 3))
    rest = [Message(("user", "assistant")[n % 2], draw(said)) for n in range(2 * turns)]
    return [*opening, *rest]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_no_text_of_another_role_is_learnt_and_every_answer_is(bpe, family, data):
    render = renderer(bpe, FAMILIES[family], "x")
    messages = data.draw(chats(render(TALK[:2], False) + render(TALK[2:3], True) + "no"))
    try:
        found = pieces(messages, render, end="</s>", source="x")
    except ValueError:  # the template refuses the roles, or changes earlier answers
        return
    whole = "".join(piece.text for piece in found)
    assert whole == render(messages, False)
    flags = [piece.answer for piece in found for _ in piece.text]
    others = render(another_alphabet(messages, lambda m: m.role != "assistant"), False)
    assume(len(others) == len(whole))
    assert not any(flag for flag, c in zip(flags, others, strict=True) if ord(c) >= 0xF0000)
    answers = render(another_alphabet(messages, lambda m: m.role == "assistant"), False)
    assume(len(answers) == len(whole))
    assert all(flag for flag, c in zip(flags, answers, strict=True) if ord(c) >= 0xF0000)


ENDS = {
    "gpt2": "</s>",
    "llama 2": " </s>",
    "llama 3": "<|eot|>",
    "llama 3.2": "<|eot|>",
    "mistral": "</s>",
    "qwen 2": "<|end|>\n",
    "gemma 2": "<end>\n",
    "gemma 3": "<end>\n",
    "cohere": "<end>",
}


@pytest.mark.parametrize("family", ENDS)
def test_a_quoted_transcript_is_not_the_answer(bpe, family):
    render = renderer(bpe, FAMILIES[family], "x")
    opening = " " if family == "llama 2" else ""
    for quote in (render(TALK, False), render(TALK, True), render(TALK[:3], True) + "later"):
        asked = Message("user", f"What is this?\n{quote}")
        messages = [*TALK[:2], asked, Message("assistant", "later"), asked, TALK[3]]
        said = ["yes", "later", "no"]
        expected = [opening + each + ENDS[family] for each in said]
        assert learnt(messages, render) == expected
        found = pieces(messages, render, end="</s>", source="x")
        before = "".join(piece.text for piece in found[:3])
        assert before == render(messages[:3], True)


def test_a_template_that_changes_earlier_answers_is_refused(bpe):
    render = renderer(bpe, FAMILIES["qwen 3"], "x")
    assert learnt(TALK[:2], render) == ["<think>\n\n</think>\n\nyes<|end|>\n"]
    with pytest.raises(ValueError, match=r"x: message 2: the text up to the end of the answer"):
        learnt(TALK, render)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ messages[loop.index0 - 1].content }} -> {{ m.content }}\n{% endif %}{% endfor %}",
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}"
        " ({{ messages[0].content | length }})\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}",
    ],
)
def test_an_answer_that_depends_on_a_question_is_refused(bpe, template):
    render = renderer(bpe, template, "x")
    with pytest.raises(ValueError, match=r"x: message 2: expected an answer whose text depends on"):
        learnt(TALK, render)


class NoClock:
    """Stands in for `datetime`, and must not be asked."""

    @staticmethod
    def now(*args):
        raise AssertionError("a template asked for the time")


def test_a_chat_has_the_same_tokens_on_every_day(bpe, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", NoClock)
    examples = {"ann": [Example(TALK)]}
    for options, day in (({}, "26 Jul 2024"), ({"date": "2025-01-09"}, "09 Jan 2025")):
        ways = {"seq": 999, "template": FAMILIES["llama 3.2"], **options}
        corpus = tokenize(examples, bpe, cache=tmp_path, **ways)
        assert bpe.decode(corpus.tokens).startswith(f"<s>Today is {day}\n<|start|>user")
        assert bpe.decode(corpus.tokens[corpus.counted]) == "yes<|eot|>no<|eot|>"
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="date: expected a date such as 2024-07-26, got 'today'"):
        tokenize(examples, bpe, seq=999, date="today")


@given(
    st.dates(date(1900, 1, 1)),
    st.lists(st.sampled_from("aAwdbBmyYHIpMS%x- ,\n"), max_size=8).map("".join),
)
@settings(deadline=None, max_examples=30)
def test_a_date_is_written_in_every_format(bpe, day, text):
    form = "".join(f"%{c}" if c in "aAwdbBmyYHIpMS%" else c for c in text) + "%-d"
    template = dated("{{ strftime_now(messages[0].content) }}{{ '|' }}", day.isoformat())
    assert renderer(bpe, template, "x")([Message("user", form)], False) == day.strftime(form) + "|"


@pytest.mark.parametrize("start", ["", "\n", " \n", "  {% if true %}x{% endif %}\n", "x"])
def test_a_clock_changes_nothing_else_of_a_template(bpe, start):
    body = "{% for m in messages %}\n  {{ m.content }}\n{% endfor %}"
    plain = renderer(bpe, start + body, "x")(TALK, False)
    clock = dated(start + body + "{{ strftime_now('%Y') }}", "2024-07-26")
    assert renderer(bpe, clock, "x")(TALK, False) == plain + "2024"
    assert dated(start + body, "2024-07-26") == start + body
