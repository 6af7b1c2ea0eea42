"""Pairs of answers: read, tokenised, drawn, split, and refused by record."""

import json
from itertools import pairwise

import numpy as np
import pytest

from fedjax_llm.data import (
    Batching,
    Message,
    Pair,
    PairFields,
    QuestionFields,
    alpaca_pairs,
    cohort_batches,
    fedit,
    hold_out,
    iid,
    jsonl,
    pooled,
    sharegpt_pairs,
    table,
    tokenize_pairs,
)
from tests.helpers.fast_tokenizers import byte_level

ASKED = (Message("user", "the cat"),)
EARLIER = (Message("user", "hello"), Message("assistant", "there"), *ASKED)
ROWS = [
    {"prompt": "the cat", "chosen": "sat on", "rejected": "the mat.", "who": "b"},
    {"prompt": "hello", "chosen": "there", "rejected": "user", "who": "a"},
    {"prompt": "on the mat", "chosen": "hello", "rejected": "sat", "who": "b"},
]


@pytest.fixture(scope="module")
def bpe():
    return byte_level()


@pytest.fixture(scope="module")
def pairs(bpe):
    return tokenize_pairs(table(ROWS, PairFields(client="who")), bpe, seq=30)


def all_of(pairs, seq=30):
    rows = pairs.rows(range(len(pairs.names)), seq=seq)
    count = int(rows.counts.sum())
    return rows.take(np.arange(count), np.ones(count, bool))


def test_records_are_read_from_every_source(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = jsonl(tmp_path / "pairs.jsonl", PairFields(client="who"))
    assert list(found) == ["a", "b"]
    source = f"{tmp_path / 'pairs.jsonl'}: line 1"
    assert found["b"][0] == Pair(ASKED, "sat on", "the mat.", source=source)
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "client.json").write_text(json.dumps(ROWS))
    of_folder = fedit(tmp_path / "clients", PairFields(), pattern="*.json")
    assert [pair[:3] for pair in of_folder["client"]] == [
        ((Message("user", row["prompt"]),), row["chosen"], row["rejected"]) for row in ROWS
    ]
    dealt = iid(pooled(found), clients=3, seed=0)
    assert sorted(map(len, dealt.values())) == [1, 1, 1]


def test_answers_may_be_messages_after_the_prompts():
    prompt = [message(*turn[:2]) for turn in EARLIER]
    good = [*prompt, {"role": "assistant", "content": "sat on"}]
    bad = [{"role": "assistant", "content": "no"}]
    rows = [{"prompt": prompt, "chosen": good, "rejected": bad}]
    (pair,) = table(rows, PairFields())["table"]
    assert pair[:3] == (EARLIER, "sat on", "no")


def message(role, content):
    return {"role": role, "content": content}


def test_the_layouts_of_published_pairs_are_read_by_name():
    asked, good, bad = (
        {"from": "human", "value": "Hi"},
        *({"from": "gpt", "value": text} for text in ("yes", "no")),
    )
    layouts = [
        (PairFields(), {"prompt": "Hi", "chosen": "yes", "rejected": "no"}),
        (
            PairFields(),
            {
                "prompt": [message("user", "Hi")],
                "chosen": [message("assistant", "yes")],
                "rejected": [message("assistant", "no")],
            },
        ),
        (
            PairFields(),
            {
                "chosen": [message("user", "Hi"), message("assistant", "yes")],
                "rejected": [message("user", "Hi"), message("assistant", "no")],
            },
        ),
        (
            PairFields(),
            {
                "prompt": "Hi",
                "chosen": [message("user", "Hi"), message("assistant", "yes")],
                "rejected": [message("user", "Hi"), message("assistant", "no")],
            },
        ),
        (alpaca_pairs(), {"instruction": "Hi", "input": "", "chosen": "yes", "rejected": "no"}),
        (sharegpt_pairs(), {"conversations": [asked], "chosen": good, "rejected": bad}),
    ]
    for fields, row in layouts:
        (pair,) = table([row], fields)["table"]
        assert pair[:3] == ((Message("user", "Hi"),), "yes", "no")
    (pair,) = table([layouts[-1][1] | {"system": "Be brief."}], sharegpt_pairs())["table"]
    assert pair.prompt == (Message("system", "Be brief."), Message("user", "Hi"))
    with pytest.raises(ValueError, match="row 1: field 'rejected': expected one message of the as"):
        table(
            [layouts[2][1] | {"rejected": [message("user", "Ho"), *[message("assistant", "x")]]}],
            PairFields(),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, r"table: row 1: field 'chosen': expected a list of messages, got None"),
        ({"chosen": []}, r"table: row 1: field 'chosen': expected one message of the assistant"),
        ({"chosen": " "}, r"table: row 1: field 'chosen': expected text, got ' '"),
        (
            {"rejected": "sat on"},
            r"row 1: fields 'chosen' and 'rejected': expected two different answers",
        ),
        ({"prompt": []}, r"row 1: field 'prompt': expected a last message that is not of the"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, r"'prompt': expected a last message"),
        (
            {"chosen": [{"role": "user", "content": "x"}]},
            r"'chosen': expected one message of the assistant",
        ),
    ],
)
def test_a_bad_pair_is_refused_by_record_and_field(change, message):
    with pytest.raises(ValueError, match=message):
        table([{**ROWS[0], **change}], PairFields())


def test_a_field_that_is_missing_is_named():
    with pytest.raises(
        ValueError, match=r"table: row 2: field 'rejected': expected this field, got only"
    ):
        table([ROWS[0], {"prompt": "x", "chosen": "y"}], PairFields())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": "ab"}, r"row 1: field 'options': expected a list of at least two texts"),
        ({"options": ["a"]}, r"row 1: field 'options': expected a list of at least two texts"),
        ({"options": ["a", ""]}, r"row 1: field 'options': field 1: expected text, got ''"),
        ({"answer": 2}, r"row 1: field 'answer': expected a number from 0 to 1, got 2"),
        ({"answer": True}, r"row 1: field 'answer': expected a number from 0 to 1, got True"),
    ],
)
def test_a_bad_question_is_refused_by_record_and_field(change, message):
    with pytest.raises(ValueError, match=message):
        table([{"prompt": "?", "options": ["a", "b"], "answer": 1} | change], QuestionFields())


def test_both_answers_follow_the_prompt_and_count_alone(pairs, bpe):
    assert pairs.names == ("a", "b")
    np.testing.assert_array_equal(pairs.targets(), [1, 2])
    batch = all_of(pairs)
    assert batch.tokens.shape == batch.targets.shape == batch.counted.shape == (3, 2, 30)
    said = [
        [bpe.decode(t[c]) for t, c in zip(*two, strict=True)]
        for two in zip(batch.targets, batch.counted, strict=True)
    ]
    assert said == [
        ["there</s>", "user</s>"],
        ["sat on</s>", "the mat.</s>"],
        ["hello</s>", "sat</s>"],
    ]
    prompt = "<s>user\nthe cat</s>\n<s>assistant\n"
    for tokens, counted in zip(batch.tokens[1], batch.counted[1], strict=True):
        assert bpe.decode(tokens[: counted.argmax() + 1]) == prompt


def test_answers_before_the_last_do_not_count(bpe):
    pairs = tokenize_pairs({"a": [Pair(EARLIER, "sat on", "no")]}, bpe, seq=40)
    batch = all_of(pairs, seq=40)
    assert bpe.decode(batch.targets[batch.counted]) == "sat on</s>no</s>"


def test_pairs_of_a_round_are_drawn_by_key_and_none_comes_twice_before_all_came_once(pairs):
    pairs = pairs._replace(reference=-np.arange(6, dtype=np.float32))
    keys = np.array([[0, 1], [0, 2]], np.uint32)
    batch = cohort_batches(pairs, Batching(seq=30, batch=2, epochs=2), [0, 1], keys)
    assert batch.tokens.shape == (2, 2, 2, 2, 30)
    assert batch.reference.shape == (2, 2, 2, 2)
    np.testing.assert_array_equal(batch.mask.sum(axis=(1, 2)), 2 * pairs.targets())
    assert (batch.tokens[~batch.mask] == 0).all()
    assert (batch.reference[~batch.mask] == 0).all()
    own = sorted(batch.reference[1].reshape(-1, 2).tolist())
    assert own == [[-4, -5], [-4, -5], [-2, -3], [-2, -3]]


def test_a_split_divides_pairs_and_keeps_their_reference(bpe):
    some = [Pair(ASKED, f"{'a' * n} sat", "mat.", source=str(n)) for n in range(1, 9)]
    made = tokenize_pairs({f"c{i}": some for i in range(4)}, bpe, seq=60)
    pairs = made._replace(reference=np.arange(64, dtype=np.float32))
    split = hold_out(pairs, seed=0, clients=0.25, examples=0.25)
    assert [part.pieces().tolist() for part in split] == [[6, 6, 6], [2, 2, 2], [8]]
    assert set(split.train.names).isdisjoint(split.unseen_clients.names)
    whole = all_of(pairs, seq=60)
    for part in split:
        batch = all_of(part, seq=60)
        where = (batch.reference[:, 0] // 2).astype(int)
        np.testing.assert_array_equal(batch.tokens, whole.tokens[where])


def test_a_longer_pair_is_refused_or_dropped(bpe):
    long = Pair(ASKED, "sat on " * 9, "mat.", source="pairs.jsonl: line 7")
    short = Pair(ASKED, "sat", "mat.")
    with pytest.raises(
        ValueError, match=r"line 7: expected at most 31 tokens, .* got \d\d; .*drop"
    ):
        tokenize_pairs({"a": [long, short]}, bpe, seq=30)
    assert tokenize_pairs({"a": [long, short]}, bpe, seq=30, long="drop").pieces() == [1]
    with pytest.raises(
        ValueError, match=r"client 'a': expected a record within 31 tokens, got none"
    ):
        tokenize_pairs({"a": [long]}, bpe, seq=30, long="drop")
    with pytest.raises(ValueError, match=r"Pairs: client 'a': expected at most 6 tokens"):
        all_of(tokenize_pairs({"a": [short]}, bpe, seq=30), seq=5)


WORDS = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "kept"),
    [
        ("abcdef", "12", "345", ("def12", "def345")),  # all of the longer answer fits
        ("abcdef", "1234", "56", ("ef1234", "ef56")),
        ("abcdef", "123456", "7", ("ef1234", "ef7")),  # two tokens of the prompt always stay
        ("ab", "123456", "7", ("ab1234", "ab7")),
        ("a", "123456", "78", ("a12345", "a78")),
        ("abc", "1", "2", ("abc1", "abc2")),
    ],
)
def test_a_longer_pair_loses_the_start_of_its_prompt_then_the_ends_of_its_answers(
    bpe, prompt, chosen, rejected, kept
):
    pair = Pair((Message("user", prompt),), chosen, rejected)
    data = tokenize_pairs(
        {"x": [pair]}, bpe, seq=5, template=WORDS, long="truncate", prompt_tokens=2
    )
    corpus = data.corpus
    said = [bpe.decode(corpus.tokens[a:b]) for a, b in pairwise(corpus.documents)]
    assert tuple(said) == kept
    assert bpe.decode(corpus.tokens[corpus.counted]) == "".join(
        c for text in kept for c in text if c.isdigit()
    )


def test_answers_that_a_cut_makes_alike_are_left_out(bpe):
    asked = (Message("user", "ab"),)
    alike, short = Pair(asked, "123456", "123457"), Pair(asked, "1", "2")
    options = {"seq": 5, "template": WORDS, "long": "truncate"}
    found = tokenize_pairs({"x": [alike, short], "y": [short]}, bpe, **options)
    assert found.pieces().tolist() == [1, 1]
    assert found.left_out == {"pairs": (1, 3)}
    options_of_drop = {**options, "long": "drop"}
    dropped = tokenize_pairs({"x": [alike, short]}, bpe, **options_of_drop)
    assert dropped.left_out == {"pairs": (1, 2)}
    assert tokenize_pairs({"x": [short]}, bpe, **options).left_out is None
    with pytest.raises(ValueError, match="client 'x': expected a record within 6 tokens, got none"):
        tokenize_pairs({"x": [alike]}, bpe, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_tokens": 3}, "prompt_tokens: expected None, as long is 'error', got 3; use long"),
        ({"prompt_tokens": 31, "long": "truncate"}, "prompt_tokens: expected at most seq=30, got"),
        ({"prompt_tokens": 0, "long": "truncate"}, "prompt_tokens: expected an integer at least 1"),
        ({"seq": 0}, "tokenize_pairs: seq: expected an integer at least 1, got 0"),
        ({"vocab_size": 200}, "expected tokens below the vocabulary's size of 200"),
    ],
)
def test_arguments_are_checked(bpe, arguments, message):
    with pytest.raises(ValueError, match=message):
        tokenize_pairs({"a": [Pair(ASKED, "sat", "mat.")]}, bpe, **{"seq": 30, **arguments})
