from functools import partial

import pytest
from fedjax_compression import codec
from fedjax_compression.checks import check_number
from fedjax_compression.text import Call, build, parse

ROUND_TRIPS = {
    "eden( bits = 1 )": "eden(bits=1)",
    "identity": "identity()",
    "error_feedback(chain(top_k(fraction=.01), stochastic_quantize(bits=4)))": (
        "error_feedback(chain(top_k(fraction=0.01), stochastic_quantize(bits=4)))"
    ),
    "f(-1, 'a', None, b=True, a=2.5e-3)": "f(-1, 'a', None, a=0.0025, b=True)",
}


@pytest.mark.parametrize(("text", "canonical"), ROUND_TRIPS.items())
def test_a_call_prints_as_its_canonical_text(text, canonical):
    assert str(parse(text)) == canonical
    assert str(parse(canonical)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "eden(bits=1) + 1",
        "a.b()",
        "__import__('os').system('true')",
        "f(*x)",
        "f(**x)",
        "f(a=1, a=2)",
        "f([1])",
        "lambda: 0",
        "f(x for x in y)",
        "f(1j)",
        "(" * 500,
        "-" * 500 + "1",
        "f(" + "1," * 2000 + ")",
        "f(\0)",
    ],
)
def test_only_calls_and_literals_are_read(text):
    with pytest.raises(ValueError, match="expected a call"):
        parse(text)


def test_an_error_shows_only_the_arguments_that_a_text_can_give():
    factory = partial(lambda *, of, size, rate=0.5: None, of=object())
    with pytest.raises(ValueError, match=r"^expected f\(size, rate=0.5\), got f\(\): missing"):
        build(parse("f()"), {"f": factory})


def test_inner_calls_are_built_first():
    assert build(
        parse("pair(one(), pair(2, b=one))"), {"one": lambda: 1, "pair": lambda a, b: (a, b)}
    ) == (1, (2, 1))
    assert parse("pair(one())") == Call("pair", (Call("one"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edn(bits=1)", r"expected one of .*chain, .*eden, .* got 'edn' \(did you mean eden\?\)"),
        ("eden(bit=1)", r"expected eden\(bits\), got eden\(bit=1\)"),
        ("eden(bits=9)", "eden: bits: expected a number above 0 and at most 4, got 9"),
        ("eden(bits=[1])", "only calls and literals"),
        ("error_feedback(3)", "error_feedback: positional argument: expected a codec, got 3"),
        ("eden(bits=identity())", "eden: bits: expected a literal, got identity"),
    ],
)
def test_errors_are_one_line_that_names_the_codec(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        codec(text)
    assert str(caught.value).startswith(f"codec {text!r}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("error_feedback(ef21(sign()))", "use error_feedback, ef21 or diana alone."),
        (
            "ef21(diana(sign(), rate=0.5))",
            "give ef21 the codec inside it, as one memory is enough.",
        ),
        (
            "rotated(ef21(sign()))",
            "put memory at both ends outermost: ef21(rotated(...)) or diana(rotated(...), "
            "rate=...).",
        ),
    ],
)
def test_the_remedy_for_a_memory_inside_is_a_codec_that_can_be_built(text, remedy):
    with pytest.raises(ValueError, match="expected a codec whose receiver keeps no memory") as told:
        codec(text)
    assert str(told.value).endswith(remedy)
    for advised in ("error_feedback(sign())", "ef21(sign())", "ef21(rotated(sign()))"):
        codec(advised)


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_that_is_not_finite_is_named_for_that(value):
    with pytest.raises(ValueError, match=rf"^f: x: expected a finite number above 0, got {value}"):
        check_number(float(value), who="f", name="x", above=0)
    with pytest.raises(ValueError, match=r"^f: x: expected a number above 0, got -1\.$"):
        check_number(-1, who="f", name="x", above=0)
