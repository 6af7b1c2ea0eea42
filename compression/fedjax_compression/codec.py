"""Compressors by name."""

from .chunked_top_k import chunked_top_k
from .compressor import Compressor, chain, identity
from .count_sketch import count_sketch
from .dct_top_k import dct_top_k
from .dgc import dgc
from .eden import eden
from .error_feedback import error_feedback
from .power_sgd import power_sgd
from .quantize import stochastic_quantize
from .random_k import random_k
from .random_subspace import random_subspace
from .sparse_ternary import sparse_ternary
from .text import Call, build, parse
from .threshold import threshold
from .top_k import top_k

FACTORIES = {
    factory.__name__: factory
    for factory in (
        chain,
        chunked_top_k,
        count_sketch,
        dct_top_k,
        dgc,
        eden,
        error_feedback,
        identity,
        power_sgd,
        random_k,
        random_subspace,
        sparse_ternary,
        stochastic_quantize,
        threshold,
        top_k,
    )
}
"""Every public factory of a compressor, by its name."""


def codec(text: str) -> Compressor:
    """The compressor that a text describes, e.g. `"error_feedback(top_k(fraction=0.01))"`.

    Raises `ValueError` naming the text, what was expected and what was got. `str(parse(text))` is
    the same codec in its one canonical spelling.
    """
    try:
        call = parse(text)
        _check_arguments(call)
        built = build(call, FACTORIES)
    except (ValueError, TypeError) as error:
        raise ValueError(f"codec {text!r}: {error}") from None
    return built


def _check_arguments(call: Call) -> None:
    """Codecs stand without a name, hyper-parameters with theirs."""
    for argument in call.args:
        if not isinstance(argument, Call):
            raise ValueError(f"{call.name}: expected a codec, got {argument!r}.")
        _check_arguments(argument)
    for name, value in call.kwargs:
        if isinstance(value, Call):
            raise ValueError(f"{call.name}: {name}: expected a literal, got {value}.")
