"""Texts and chats to tokens: counted tokens, long examples and errors."""

import hashlib
import json
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors

from fedjax_llm.data import (
    INSTRUCTIONS,
    Example,
    Message,
    Pair,
    all_windows,
    hold_out,
    open_corpus,
    save_corpus,
    tokenize,
    tokenize_pairs,
)
from fedjax_llm.data.tokenisation import encode as encoding
from fedjax_llm.data.tokenisation.chat import Piece, pieces
from fedjax_llm.data.tokenisation.encode import ids_of, reads_bytes, renderer
from tests.helpers.fast_tokenizers import CHATML, byte_level
from tests.helpers.spaced import spaced


@pytest.fixture(scope="module")
def bpe():
    return byte_level()


def chat(*contents, source="talk 1"):
    roles = ["user", "assistant"] * len(contents)
    return Example(tuple(map(Message, roles, contents)), source=source)


def said(corpus, tokenizer, *, counted=True):
    """The text of each document's tokens that count, or of all."""
    bounds = zip(corpus.documents[:-1], corpus.documents[1:], strict=True)
    found = []
    for a, b in bounds:
        wanted = corpus.counted[a:b] if counted else slice(None)
        found.append(tokenizer.decode(corpus.tokens[a:b][wanted]))
    return found


def test_answers_alone_count_to_their_end_of_sequence(bpe):
    corpus = tokenize({"a": [chat("the cat", "sat on", "hello", "there")]}, bpe, seq=99)
    assert said(corpus, bpe) == ["sat on</s>there</s>"]
    assert said(corpus, bpe, counted=False) == [
        "<s>user\nthe cat</s>\n<s>assistant\nsat on</s>\n"
        "<s>user\nhello</s>\n<s>assistant\nthere</s>\n"
    ]
    batch = all_windows(corpus, seq=99, batch=1)
    assert bpe.decode(batch.targets[batch.mask]) == "sat on</s>there</s>"
    assert corpus.tokens.dtype == np.uint16
    assert corpus.vocab_size == len(bpe)


contents = st.text(st.sampled_from("ab \né…<s>"), min_size=1, max_size=9).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(said_in_turn=st.lists(contents, min_size=2, max_size=8).filter(lambda c: len(c) % 2 == 0))
def test_an_answer_starts_after_the_tokens_of_its_prompt(bpe, said_in_turn):
    tokenizer = bpe
    corpus = tokenize({"a": [chat(*said_in_turn)]}, tokenizer, seq=999)
    messages = [m._asdict() for m in chat(*said_in_turn).text]
    starts = np.flatnonzero(np.diff(corpus.counted.astype(int)) == 1) + 1
    assert len(starts) == len(said_in_turn) // 2
    for turn, start in enumerate(starts):
        prompt = tokenizer.apply_chat_template(
            messages[: 2 * turn + 1], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(corpus.tokens[:start]) == prompt
        if turn == 0:
            assert corpus.tokens[:start].tolist() == ids
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert said(corpus, tokenizer, counted=False) == [whole]
    assert said(corpus, tokenizer) == ["".join(f"{answer}</s>" for answer in said_in_turn[1::2])]


def test_a_token_never_runs_from_the_prompt_into_the_answer(bpe):
    merged = bpe("\n\n", add_special_tokens=False)["input_ids"]
    assert len(merged) == 1
    corpus = tokenize({"a": [chat("hello", "\nthere")]}, bpe, seq=99)
    assert merged[0] not in corpus.tokens
    assert said(corpus, bpe) == ["\nthere</s>"]


def test_a_tokenizer_that_puts_a_space_before_each_text_is_cut_by_its_prompts():
    tokenizer = spaced()
    corpus = tokenize({"a": [chat("the cat", "sat on", "the", "mat.")]}, tokenizer, seq=99)
    whole = "[INST] the cat [/INST] sat on </s>[INST] the [/INST] mat. </s>"
    assert corpus.tokens.tolist() == tokenizer(whole, add_special_tokens=False)["input_ids"]
    found = tokenizer.convert_ids_to_tokens(corpus.tokens[corpus.counted])
    assert "".join(found) == "▁sat▁on▁</s>▁mat.▁</s>"


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(min_size=1, max_size=9) | st.just(" <s>\n"), min_size=1, max_size=5))
def test_tokens_of_bytes_decode_to_the_whole_text_however_it_is_cut(bpe, texts):
    assert reads_bytes(bpe)
    apart = bpe(texts, add_special_tokens=False)["input_ids"]
    whole = bpe("".join(texts), add_special_tokens=False)["input_ids"]
    ways = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    assert bpe.decode([token for each in apart for token in each], **ways) == "".join(texts)
    assert bpe.decode(whole, **ways) == "".join(texts)


def bos_first():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def spelt_out():
    tokenizer = byte_level()
    tokenizer.split_special_tokens = True
    return tokenizer


def composed():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("cat", lstrip=True)])
    return tokenizer


@pytest.mark.parametrize("made", [byte_level, spaced, bos_first, spelt_out, composed])
@settings(deadline=None, max_examples=20)
@given(st.lists(st.text(max_size=9) | st.sampled_from(["the <s> cat", "</s>", "e\u0301 cat"])))
def test_tokens_are_those_of_the_tokenizer_called(made, texts):
    tokenizer = made()
    tokenizer.pad_token = tokenizer.eos_token
    for special in (False, True):
        expected = [tokenizer(text, add_special_tokens=special)["input_ids"] for text in texts]
        tokenizer(["the", "the cat"], padding=True, truncation=True, max_length=2)
        assert ids_of(tokenizer, texts, special=special) == expected


def test_documents_of_many_chats_are_the_tokens_of_their_pieces(bpe):
    chats = [chat("the", "cat " * (n % 5), "hello", f"there {n}") for n in range(1, 700) if n % 5]
    corpus = tokenize({"a": chats}, bpe, seq=999)
    for n, example in enumerate(chats):
        render = renderer(bpe, bpe.chat_template, "x")
        found = pieces(example.text, render, end="</s>", source="x")
        parts = [bpe(piece.text, add_special_tokens=False)["input_ids"] for piece in found]
        part = slice(*corpus.documents[n : n + 2])
        assert corpus.tokens[part].tolist() == [token for each in parts for token in each]
        counted = [piece.answer for piece, each in zip(found, parts, strict=True) for _ in each]
        assert corpus.counted[part].tolist() == counted


@pytest.mark.parametrize(
    "changed",
    [
        {"normalizer": normalizers.NFC()},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {"decoder": decoders.Metaspace()},
        {"pre_tokenizer": pre_tokenizers.Sequence([])},
        {"pre_tokenizer": pre_tokenizers.PreTokenizer.custom(object())},
        {"added": AddedToken("<pad>", lstrip=True)},
    ],
    ids=lambda changed: type(*changed.values()).__name__,
)
def test_a_tokenizer_that_changes_text_does_not_read_bytes(changed):
    tokenizer = byte_level()
    for name, value in changed.items():
        if name == "added":
            tokenizer.add_tokens([value])
        else:
            setattr(tokenizer.backend_tokenizer, name, value)
    assert not reads_bytes(tokenizer)
    assert not reads_bytes(spaced())


def test_a_tokenizer_with_tokens_across_prompt_and_answer_is_refused():
    tokenizer = spaced()
    glued = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert len(tokenizer("hello")["input_ids"]) < len(tokenizer("hel")["input_ids"])
    with pytest.raises(ValueError, match=r"talk 1: expected the tokens of a prompt"):
        tokenize({"a": [chat("hel", "lo")]}, tokenizer, seq=99, template=glued)


def test_a_text_counts_whole_and_ends():
    tokenizer = byte_level()
    corpus = tokenize({"a": [Example("the cat")], "b": [Example("sat</s>")]}, tokenizer, seq=9)
    assert corpus.counted is None
    assert said(corpus, tokenizer, counted=False) == ["the cat</s>", "sat</s>"]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    corpus = tokenize({"a": [Example("the cat")]}, tokenizer, seq=9)
    assert said(corpus, tokenizer, counted=False) == ["<s>the cat</s>"]


def test_texts_and_chats_may_be_mixed_and_clients_are_sorted(bpe):
    examples = {"b": [Example("hello")], "a": [chat("the", "cat"), Example("mat.")]}
    corpus = tokenize(examples, bpe, seq=99)
    assert corpus.names == ("a", "b")
    assert said(corpus, bpe) == ["cat</s>", "mat.</s>", "hello</s>"]
    assert corpus.documents[2] == corpus.offsets[1]
    assert hold_out(corpus, seed=0, examples=0.5).heldout.names == ("a",)


def test_the_instructions_template_is_for_models_without_one():
    tokenizer = byte_level()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"talk 1: expected a template .*INSTRUCTIONS"):
        tokenize({"a": [chat("the", "cat")]}, tokenizer, seq=99)
    corpus = tokenize({"a": [chat("the", "cat")]}, tokenizer, seq=99, template=INSTRUCTIONS)
    assert said(corpus, tokenizer) == ["cat</s>"]
    assert said(corpus, tokenizer, counted=False) == [
        "### Instruction:\nthe\n\n### Response:\ncat</s>\n\n"
    ]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            CHATML.replace("<s>assistant\n{% endif %}", "<s>model\n{% endif %}"),
            "opening of the ans",
        ),
        (
            CHATML.replace("</s>\n{% e", "{{ '</s>' if loop.last or m['role'] == 'user' }}\n{% e"),
            "up to the end of the a",
        ),
        ("{{ raise_exception('no chats here') }}", "accept the chat, got the error: no chats here"),
        ("{{ messages[5].content.nothing() }}", "expected the template to accept the chat"),
    ],
)
def test_a_template_that_does_not_go_on_is_refused(bpe, template, message):
    with pytest.raises(ValueError, match=rf"talk 1: .*{message}"):
        tokenize({"a": [chat("a", "b", "c", "d")]}, bpe, seq=99, template=template)


def test_an_answer_needs_a_question(bpe):
    example = Example((Message("assistant", "hi"),), source="x.jsonl: line 7")
    with pytest.raises(ValueError, match=r"x\.jsonl: line 7: message 1: expected a question first"):
        tokenize({"a": [example]}, bpe, seq=99)


def plain(messages, opening):
    body = "".join(f"<{m.role}>{m.content}|\n" for m in messages)
    return body + ("<assistant>" if opening else "")


turns = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.text("ab|<", max_size=3)).map(
        lambda message: Message(*message)
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=100)
@given(turns)
def test_pieces_are_those_of_rendering_every_answer(rest):
    messages = [Message("user", "hi"), *rest]
    found = pieces(messages, plain, end="|", source="x")
    expected = []
    for message in messages:
        answer = message.role == "assistant"
        head = f"<{message.role}>"
        expected += [(head, False), (message.content + "|", answer), ("\n", False)]
    text = "".join(part for part, _ in expected)
    assert "".join(piece.text for piece in found) == text == plain(messages, False)
    flags = [piece.answer for piece in found for _ in piece.text]
    assert flags == [answer for part, answer in expected for _ in part]
    assert Piece("", False) not in found


def test_a_long_chat_is_rendered_only_a_few_times():
    calls = []

    def render(messages, opening):
        calls.append(len(messages))
        return plain(messages, opening)

    pieces(
        [Message(role, "x") for role in ["user", "assistant"] * 40], render, end=None, source="x"
    )
    assert len(calls) < 8


LONG = {"a": [chat("the cat", "sat on the mat. hello there the cat sat")]}


def test_a_long_example_is_refused_truncated_or_split(bpe):
    whole = tokenize(LONG, bpe, seq=99)
    size = len(whole.tokens)
    with pytest.raises(
        ValueError, match=rf"talk 1: expected at most {size - 1} .* got {size}; use a"
    ):
        tokenize(LONG, bpe, seq=size - 2)
    assert len(tokenize(LONG, bpe, seq=size - 1).tokens) == size
    cut = tokenize(LONG, bpe, seq=size - 5, long="truncate")
    np.testing.assert_array_equal(cut.tokens, whole.tokens[: size - 4])
    split = tokenize(LONG, bpe, seq=4, long="split")
    assert split.targets().sum() == whole.targets().sum()
    batches = all_windows(split, seq=4, batch=1), all_windows(whole, seq=99, batch=1)
    np.testing.assert_array_equal(*(batch.targets[batch.mask] for batch in batches))


def test_what_truncation_leaves_out_is_counted_also_on_disk(bpe, tmp_path):
    """An answer counts as left out where none of its tokens is a target: a window has seq + 1."""
    chats = {
        "a": [chat("the cat", "sat", "hello", "there"), chat("hello " * 30, "no")],
        "b": [chat("the", "mat"), chat("the", "mat", "the", "cat")],
    }
    whole = tokenize({"a": chats["a"][:1]}, bpe, seq=999)
    assert whole.left_out is None
    _, second = np.flatnonzero(np.diff(whole.counted.astype(int)) == 1) + 1
    for seq, answers in ((second - 1, 2), (second, 1)):
        cut = tokenize(chats, bpe, seq=int(seq), long="truncate")
        assert cut.left_out == {"examples": (1, 4), "answers": (answers, 6)}
        save_corpus(cut, tmp_path / str(seq))
        assert open_corpus(tmp_path / str(seq)).left_out == cut.left_out
    assert tokenize(chats, bpe, seq=int(second), long="split").left_out is None
    unlearnt = Message("assistant", "sat", learnt=False)
    silent = {"a": [Example((Message("user", "the"), unlearnt)), Example("a text")]}
    assert tokenize(silent, bpe, seq=9, long="split").left_out == {"examples": (1, 2)}


def test_bad_arguments_are_refused_by_name(bpe):
    with pytest.raises(ValueError, match=r"client 'b': expected at least one example, got none"):
        tokenize({"a": [Example("hello")], "b": []}, bpe, seq=9)
    with pytest.raises(ValueError, match="expected at least one client"):
        tokenize({}, bpe, seq=9)
    with pytest.raises(ValueError, match=r"client 'a': expected an answer .* within 4 tokens"):
        tokenize(LONG, bpe, seq=3, long="truncate")
    with pytest.raises(ValueError, match=r"talk 1: expected tokens below .* 258, got \d+ for '"):
        tokenize(LONG, bpe, seq=99, vocab_size=258)
    with pytest.raises(ValueError, match=r"'</s>': expected a token to predict"):
        tokenize({"a": [Example("</s>")]}, bpe, seq=9)
    with pytest.raises(ValueError, match="tokenize: seq: expected an integer at least 1, got 0"):
        tokenize(LONG, bpe, seq=0)
    with pytest.raises(TypeError, match="tokenizer: expected a PreTrainedTokenizerFast, got <obj"):
        tokenize(LONG, object(), seq=9)


def same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)


def test_a_cached_corpus_is_the_same_and_is_not_made_again(bpe, tmp_path):
    examples = {"a": [chat("the", "cat"), Example("mat.")], "é": [Example("hello")]}
    made = tokenize(examples, bpe, seq=99)
    same(tokenize(examples, bpe, seq=99, cache=tmp_path / "new"), made)
    (folder,) = (tmp_path / "new").iterdir()
    stamp = (folder / "header.json").stat().st_mtime_ns
    bpe(["the", "the cat"], padding=False, truncation=True, max_length=5)  # leaves its traces
    kept = tokenize(examples, bpe, seq=99, cache=tmp_path / "new")
    same(kept, made)
    same(all_windows(kept, seq=99, batch=2), all_windows(made, seq=99, batch=2))
    assert [path.stat().st_mtime_ns for path in folder.glob("header.json")] == [stamp]
    assert isinstance(kept.tokens.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        kept.tokens[0] = 1


def test_a_corpus_of_texts_alone_grows_on_disk_too(bpe, tmp_path):
    examples = {"a": [Example("hello there")] * 3, "b": [Example("the cat")]}
    kept = tokenize(examples, bpe, seq=9, cache=tmp_path)
    same(kept, tokenize(examples, bpe, seq=9))
    assert kept.counted is None
    assert not list(tmp_path.rglob("counted.npy"))


@pytest.mark.parametrize("long", ["truncate", "split"])
def test_a_corpus_that_grows_on_disk_has_the_bytes_of_one_that_is_saved(bpe, tmp_path, long):
    examples = {
        "a": [chat("the", "cat" * (1 + n % 30), source=f"talk {n}") for n in range(1300)],
        "b": [Example("hello " * 9), chat("the", "mat")],
    }
    whole = tokenize(examples, bpe, seq=24, long=long)
    tokenize(examples, bpe, seq=24, long=long, cache=tmp_path)
    (grown,) = tmp_path.iterdir()
    save_corpus(whole, tmp_path / "saved", key=grown.name)
    assert sorted(path.name for path in grown.iterdir()) == [
        *(f"{name}.npy" for name in ("counted", "documents")),
        "header.json",
        *(f"{name}.npy" for name in ("offsets", "tokens")),
    ]
    for path in grown.iterdir():
        assert path.read_bytes() == (tmp_path / "saved" / path.name).read_bytes(), path.name


def test_the_first_bad_example_is_named(bpe):
    """Though the next ones are rendered before it is encoded."""
    unanswered = Example((Message("assistant", "hello"),), source="talk 900")
    examples = [chat("the", "cat")] * 899 + [unanswered]
    examples[2] = chat("the", "cat " * 99, source="talk 3")
    with pytest.raises(ValueError, match="talk 3: expected at most"):
        tokenize({"a": examples}, bpe, seq=39)
    with pytest.raises(ValueError, match="talk 900: message 1: expected a question first"):
        tokenize({"a": examples[3:]}, bpe, seq=39)


def test_examples_may_be_any_sequence(bpe):
    examples = deque([chat("the", "cat"), Example("hello")])
    same(tokenize({"a": examples}, bpe, seq=39), tokenize({"a": list(examples)}, bpe, seq=39))
    with pytest.raises(TypeError, match=r"record 1|Type-check"):
        tokenize({"a": deque(["hello"])}, bpe, seq=39)


def test_a_tokenizer_is_looked_at_once_for_all_clients(bpe, monkeypatch):
    looked = []
    monkeypatch.setattr(encoding, "reads_bytes", lambda _: looked.append(1) or True)
    tokenize({name: [Example("hello")] for name in "abc"}, bpe, seq=39)
    assert not looked
    tokenize({name: [chat("the", "cat")] for name in "abc"}, bpe, seq=39)
    pairs = {name: [Pair((Message("user", "the"),), "cat", "mat")] for name in "abc"}
    tokenize_pairs(pairs, bpe, seq=39)
    assert len(looked) == 2


def test_a_tokenisation_that_fails_leaves_nothing(bpe, tmp_path):
    examples = {"a": [chat("the", "cat")] * 600 + [Example("hello " * 99)]}
    with pytest.raises(ValueError, match="expected at most 40 tokens"):
        tokenize(examples, bpe, seq=39, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_cache_key_covers_everything_that_tokens_depend_on(bpe, tmp_path):
    examples = {"a": [chat("the", "cat")]}
    other = byte_level()
    other.add_tokens(["cat"])
    relabelled = {"a": [Example(examples["a"][0].text, "label", "elsewhere")]}
    ways = [
        (examples, bpe, {}),
        ({"b": examples["a"]}, bpe, {}),
        ({"a": [chat("the", "mat")]}, bpe, {}),
        (examples, other, {}),
        (examples, bpe, {"template": INSTRUCTIONS}),
        (examples, bpe, {"long": "split"}),
        (examples, bpe, {"vocab_size": 999}),
    ]
    for number, (said_by, tokenizer, options) in enumerate(ways, start=1):
        tokenize(said_by, tokenizer, seq=99, cache=tmp_path, **options)
        assert len(list(tmp_path.iterdir())) == number
    tokenize(relabelled, bpe, seq=99, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(ways)
    asked, said = examples["a"][0].text
    for other in (
        examples["a"][0]._replace(
            text=(asked, Message("assistant", "cat", learnt=False), asked, said)
        ),
        examples["a"][0]._replace(text=(asked, said, asked, said)),
    ):
        tokenize({"a": [other]}, bpe, seq=99, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(ways) + 2


class Counted(list):
    """Examples that count how often they are read."""

    reads = 0

    def __iter__(self):
        for each in super().__iter__():
            self.reads += 1
            yield each


@pytest.mark.parametrize("number", [1, 512])
def test_the_key_is_the_same_whether_examples_are_read_once_or_twice(bpe, tmp_path, number):
    """A new cache reads them once, for tokens and key; a used one first looks for the key."""
    examples = {
        "é": Counted([chat("the", "cat", source=str(n)) for n in range(number)]),
        "a": Counted([chat("the", "mat")._replace(tools=({"name": "f"},))]),
    }
    template = "{{ tools }}" + CHATML
    backend = json.loads(bpe.backend_tokenizer.to_str()) | {"padding": 0, "truncation": 0}
    del backend["padding"], backend["truncation"]
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    parts = ([2, 99, template, "error", len(bpe)], backend, special)
    expected = hashlib.sha256()
    for part in parts:
        expected.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    for client in ("a", "é"):
        records = [[e.text, e.tools, e.variables] for e in list.__iter__(examples[client])]
        expected.update(json.dumps([client, records]).encode())
    (tmp_path / ".draft-of-a-killed-process").mkdir()
    for times, reads in ((1, 1), (2, 1), (3, 2)):  # new, found, and not found among others
        if times == 3:
            (tmp_path / expected.hexdigest()).rename(tmp_path / "another")
        before = examples["é"].reads
        tokenize(examples, bpe, seq=99, template=template, cache=tmp_path)
        judged = number  # a list is judged whole before it is read
        assert examples["é"].reads - before == reads * number + judged
        assert (tmp_path / expected.hexdigest()).is_dir()
    assert len(list(tmp_path.glob("[!.]*"))) == 2


def spoil_header(folder):
    path = folder / "header.json"
    path.write_text(path.read_text().replace("999", "998"))


def spoil_array(folder):
    path = folder / "tokens.npy"
    path.write_bytes(path.read_bytes()[:-2])


def spoil_shape(folder):
    np.save(folder / "offsets.npy", np.zeros(5, np.int64))


SPOILT = {
    "header": (spoil_header, r"header\.json: expected a complete header of format 1"),
    "no json": (lambda folder: (folder / "header.json").write_text("{"), r"header\.json: expected"),
    "list": (lambda folder: (folder / "header.json").write_text("[]"), r"header\.json: expected"),
    "short": (spoil_array, r"tokens\.npy: expected .*; remove the folder"),
    "shape": (spoil_shape, r"offsets\.npy: expected .*'shape': \[2\].* got .*'shape': \[5\]"),
    "gone": (lambda folder: (folder / "counted.npy").unlink(), r"counted\.npy: expected"),
    "pickle": (
        lambda folder: np.save(folder / "tokens.npy", np.array([{}]), allow_pickle=True),
        r"tokens\.npy: expected",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_folder_is_refused_by_file(bpe, tmp_path, name):
    spoil, message = SPOILT[name]
    cache = {"seq": 99, "vocab_size": 999, "cache": tmp_path}
    tokenize({"a": [chat("the", "cat")]}, bpe, **cache)
    (folder,) = tmp_path.iterdir()
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        tokenize({"a": [chat("the", "cat")]}, bpe, **cache)


def test_a_folder_appears_whole_or_not_at_all(bpe, tmp_path, monkeypatch):
    corpus = tokenize({"a": [chat("the", "cat")]}, bpe, seq=99)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save_corpus(corpus, tmp_path / "kept")
    assert not list(tmp_path.iterdir())
    save_corpus(corpus, tmp_path / "kept")
    other = corpus._replace(names=("b",))
    save_corpus(other, tmp_path / "kept")  # another process was first
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    same(open_corpus(tmp_path / "kept"), corpus)
    with pytest.raises(ValueError, match="expected the key 'x', got ''"):
        open_corpus(tmp_path / "kept", key="x")
