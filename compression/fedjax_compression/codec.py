"""Compressors by name."""

from .adaptive import adaptive
from .blockwise import blockwise_int, mxfp4, nf4
from .chunked_top_k import chunked_top_k
from .compressor import Compressor, chain, identity
from .count_sketch import count_sketch
from .dct_top_k import dct_top_k
from .dgc import dgc
from .diana import diana
from .dithered import dithered
from .eden import drive, eden
from .ef21 import ef21
from .entropy_coded import entropy_coded
from .error_feedback import error_feedback
from .fp8 import fp8
from .natural import natural
from .power_sgd import power_sgd
from .qsgd import qsgd
from .quantize import stochastic_quantize
from .random_k import random_k
from .random_subspace import random_subspace
from .rotated import rotated
from .scale import least_error_scale, unbiased_scale
from .sign import sign
from .sparse_loco import sparse_loco
from .sparse_ternary import sparse_ternary
from .stochastic_mask import stochastic_mask
from .terngrad import terngrad
from .text import Call, build, parse
from .threshold import threshold
from .top_k import top_k
from .trellis import trellis
from .trellis_fixed import trellis_fixed

FACTORIES = {
    factory.__name__: factory
    for factory in (
        adaptive,
        blockwise_int,
        chain,
        chunked_top_k,
        count_sketch,
        dct_top_k,
        dgc,
        diana,
        dithered,
        drive,
        eden,
        ef21,
        entropy_coded,
        error_feedback,
        fp8,
        identity,
        least_error_scale,
        mxfp4,
        natural,
        nf4,
        power_sgd,
        qsgd,
        random_k,
        random_subspace,
        rotated,
        sign,
        sparse_loco,
        sparse_ternary,
        stochastic_mask,
        stochastic_quantize,
        terngrad,
        threshold,
        top_k,
        trellis,
        trellis_fixed,
        unbiased_scale,
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
