"""A codec that spends its bits where the update has most energy.

It combines three classical methods: a basis of principal directions for each matrix, in which few
rows carry most of the energy (Karhunen-Loeve transform); one step for all entries, which is reverse
water-filling over directions and tensors; and entropy-coded trellis quantisation (Fischer & Wang
1992) with a frequency table for each octave of variance.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.bisection import least_fitting
from ..ops.flat import check_countable, check_floating
from ..ops.magnitudes import largest_magnitude
from ..ops.matrices import Group, gather_matrices, groups_of, scatter_matrices
from ..ops.principal_basis import Reflections, from_axes, principal_directions, reflections, to_axes
from ..ops.union_trellis import check_trellis
from ..wire import HEADER_BYTES
from ..wire.leaves import Symbols
from .section_bits import symbols_bits
from .short_updates import with_short_updates
from .trellis_path import PATH_BYTES, Path, find_path, walk_path

_CLASSES = 16
"""Number of classes of rows: octaves of variance below the largest, each with its own tables."""
_FINER = 8
"""Number of classes of directions above those of rows: entries of directions vary more."""
_MOST_DIRECTIONS = 128
"""Most directions of one matrix."""
_DIRECTION_STEP = 3.0
"""Step of the directions as a multiple of the trellis's step."""
_MOST_SIDE = 0.5
"""Largest share of the bits for directions and octaves; above it, neither is used."""
_TABLES = 512
"""Fewest bytes of a message with directions and tables."""
_TINY = 1e-37
"""Variances below this are treated as this."""


class Adaptive(NamedTuple):
    """Payload of an update. A matrix's basis consists of its directions and their complement.

    Attributes:
        path: The entries of all matrices in their bases, rows of larger variance first.
        directions: Each direction times the square root of its energy, in steps, directions of
            larger variance first; unused directions last.
        step: Step of the directions as a share of the update's largest magnitude, shape []. Not
            used by `decode`.
        octaves: Octaves by which each row's variance is below the largest, as differences from row
            to row.
        ranks: Number of directions of each matrix; one array for each group of matrices of one
            shape.

    """

    path: Path
    directions: Symbols
    step: Float[Array, ""]
    octaves: Symbols
    ranks: list[UInt8[Array, "_matrices"]]


def adaptive(*, rate: float | int, states: int = 32) -> Compressor:
    """Code each matrix in the basis of its directions of largest energy, at `rate` bits per entry.

    A matrix is the last two axes of a leaf; a leaf with fewer axes, or with fewer than 8 rows or
    columns, is one row. Each matrix is turned into the basis of its largest directions, as many as
    save more bits than they cost: none for a matrix without such structure, at most half of its
    rows and at most 128. The directions are sent, and the turned rows are coded by the
    entropy-coded trellis, with one step for all and frequency tables by the row's variance. There
    is no random rotation, which would make every update as hard to code as a Gaussian.

    Guarantees: least error, and biased: for messages that stand alone, such as a downlink, or under
    `error_feedback`. Neither many clients nor many rounds average its error out, where
    `preconditioned` and `eden` have noise alone; `unbiased_scale` corrects the scale, not the
    direction. Updates of language models lie in few
    directions, and their error is several dB below Shannon's bound for a Gaussian of the same
    variance; on a Gaussian the error is that of `trellis`. Zeros are exact; an update with a NaN or
    an infinity decodes to NaNs. The receiver recomputes the basis from the integers sent, so that
    decoding agrees between machines to rounding. At most 2^31 - 8 entries.

    Message: at most `rate` bits per entry, including the header of 12 bytes, tables, directions and
    all else; usually within 1 % of the rate, and a few percent below it where tables are large in
    comparison. Where directions and variances of rows would take more than half of it, neither is
    used. Updates whose rate makes fewer than 512 bytes, or two for each matrix, are rotated at
    random and quantised as in `entropy_coded`, in as many bytes, or in 40 if that is more. Cost:
    one or two searches of `states` states per entry, about five on a sample of the entries, and
    about r * r * c operations for each matrix of r by c; under `vmap` clients are searched one
    after another. Stateless.

    Args:
        rate: Bits per entry of the whole message, above 0 and at most 8.
        states: Number of states of the trellis, a power of two from 4 to 1,024. More states give
            less error and a slower search. Default: 32.

    Returns:
        The codec.

    Raises:
        ValueError: For a rate or a number of states out of range.

    Example:
        >>> import jax
        >>> from fedjax_compression import adaptive, payload_structure
        >>> like = {"w": jax.ShapeDtypeStruct((64, 96), "float32")}
        >>> payload = payload_structure(adaptive(rate=1), like)
        >>> payload.path.symbols.codes.shape  # a code per entry, whose bytes depend on the values
        (6144,)
        >>> payload.directions.codes.shape  # room for 32 directions of 64; zeros take few bits
        (2048,)

    """
    check_trellis(rate, states, who="adaptive")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_floating(update, who="adaptive")
        check_countable(update, who="adaptive")
        groups = groups_of(update)
        x = gather_matrices(update, groups)
        largest = jnp.stack([jnp.float32(0), *map(largest_magnitude, x)]).max()
        usable = (largest > 0) & jnp.isfinite(largest)
        x = [jnp.where(usable, a / jnp.where(usable, largest, 1.0), 0.0) for a in x]
        bits = float(rate) * sum(a.size for a in x)

        principal = list(map(_directions, groups, x))
        totals = [(a * a).sum(axis=(1, 2)) for a in x]
        step, ranks = _plan(groups, [energy for _, energy in principal], totals, bits)
        finer = _DIRECTION_STEP * step
        directions = [
            jnp.where(
                _used(rank, u.shape[2])[:, None], jnp.round(u * jnp.sqrt(e)[:, None] / finer), 0.0
            ).astype(jnp.int32)
            for (u, e), rank in zip(principal, ranks, strict=True)
        ]
        turned = list(map(_turned(to_axes), directions, x))
        octaves = _octaves(turned)
        side_bits = _side_bits(groups, directions, octaves, ranks)
        # rows of few entries may cost more to describe than to code
        plain = side_bits > _MOST_SIDE * bits
        directions, octaves, ranks = jax.tree.map(
            lambda a: jnp.where(plain, 0, a), (directions, octaves, ranks)
        )
        turned = [jnp.where(plain, a, b) for a, b in zip(x, turned, strict=True)]
        side_bits = jnp.where(plain, _side_bits(groups, directions, octaves, ranks), side_bits)
        order, classes, runs = _by_class(_entry_classes(groups, octaves), _CLASSES)
        direction_order, _, direction_runs = _by_class(
            _direction_classes(groups, octaves, ranks), _CLASSES + _FINER + 1
        )
        codes = _concatenated(directions, jnp.int32)[direction_order]
        differences = _differences(octaves)
        fixed = HEADER_BYTES + PATH_BYTES + 4 + 2 * 16 + sum(len(rank) for rank in ranks)
        path = find_path(
            _concatenated(turned, jnp.float32)[order],
            classes,
            runs,
            bits=bits - side_bits - 8 * fixed,
            states=states,
        )
        scale = jnp.where(jnp.isfinite(largest), largest, jnp.nan)
        return Adaptive(
            path._replace(step=path.step * scale),
            Symbols(codes, direction_runs),
            finer,
            Symbols(differences, jnp.array([differences.size], jnp.int32)),
            [rank.astype(jnp.uint8) for rank in ranks],
        ), state

    def decode(payload: Adaptive, like: Like) -> Update:
        groups = groups_of(like)
        octaves = _split(
            jnp.cumsum(jnp.asarray(payload.octaves.codes)), [(g.matrices, g.rows) for g in groups]
        )
        ranks = [jnp.asarray(rank).astype(jnp.int32) for rank in payload.ranks]
        order, _, _ = _by_class(_entry_classes(groups, octaves), _CLASSES)
        values = walk_path(payload.path, states=states)
        turned = _split(
            jnp.zeros_like(values).at[order].set(values),
            [(g.matrices, g.rows, g.columns) for g in groups],
        )
        order, _, _ = _by_class(_direction_classes(groups, octaves, ranks), _CLASSES + _FINER + 1)
        codes = jnp.asarray(payload.directions.codes)
        directions = _split(
            jnp.zeros_like(codes).at[order].set(codes),
            [(g.matrices, g.rows, _most_directions(g)) for g in groups],
        )
        x = map(_turned(from_axes), directions, turned)
        return scatter_matrices(list(x), groups, like)

    return with_short_updates(
        Compressor(init=lambda like: (), encode=encode, decode=decode),
        rate=rate,
        tables=_least_bytes,
        unbiased=False,
        who="adaptive",
    )


def _least_bytes(like: Like) -> int:
    """Fewest bytes of a message with directions and tables, of which each matrix takes one."""
    return max(_TABLES, 2 * sum(group.matrices for group in groups_of(like)))


def _most_directions(group: Group) -> int:
    return min(group.rows // 2, _MOST_DIRECTIONS)


def _directions(
    group: Group, x: Float[Array, "matrices rows columns"]
) -> tuple[Float[Array, "matrices rows count"], Float[Array, "matrices count"]]:
    count = _most_directions(group)
    if not count:
        return jnp.zeros((*x.shape[:2], 0)), jnp.zeros((len(x), 0))
    return jax.vmap(lambda matrix: principal_directions(matrix, count=count))(x)


def _turned(turn: Callable[[Reflections, Array], Array]) -> Callable[[Array, Array], Array]:
    """Return a function that turns all matrices of a group into or out of their bases."""

    def turned(
        directions: Int[Array, "matrices rows count"], x: Float[Array, "matrices rows columns"]
    ) -> Float[Array, "matrices rows columns"]:
        if not directions.shape[2]:
            return x
        basis = jax.vmap(reflections)(directions.astype(jnp.float32))
        return jax.vmap(turn)(basis, x)

    return turned


def _plan(
    groups: Sequence[Group],
    energies: Sequence[Float[Array, "_matrices _count"]],
    totals: Sequence[Float[Array, "_matrices"]],
    bits: float,
) -> tuple[Float[Array, ""], list[Int[Array, "_matrices"]]]:
    """Return a step that spends about `bits`, and the best number of directions of each matrix.

    `energies` are those along the directions of each group's matrices; `totals` are the energies of
    the whole matrices.
    """

    def rate(variance: Array, step: Array) -> Array:
        return 0.5 * jnp.log2(1 + 4 * variance / step**2)  # fitted to measured rates of the trellis

    def spend(step: Array) -> tuple[Array, list[Array]]:
        spent, ranks = jnp.zeros(()), []
        for g, energy, total in zip(groups, energies, totals, strict=True):
            used = jnp.arange(energy.shape[1] + 1, dtype=jnp.float32)
            none = jnp.zeros((g.matrices, 1))
            finer = _DIRECTION_STEP * step
            row = jnp.maximum(g.columns, 1)
            along = jnp.concatenate([none, jnp.cumsum(energy, axis=1)], axis=1)
            # energy that rounding turns out of the directions is left to the other rows
            left = jnp.maximum(total[:, None] - along, 0) / ((g.rows - used) * row)
            left += used * finer**2 / (12 * row)
            each = g.columns * rate(energy / row, step)
            each += g.rows * (0.5 * jnp.log2(1 + 17 * energy / g.rows / finer**2) + 0.1)
            directions = jnp.concatenate([none, jnp.cumsum(each, axis=1)], axis=1)
            cost = directions + (g.rows - used) * g.columns * rate(left, step)
            ranks.append(cost.argmin(axis=1).astype(jnp.int32))
            spent += cost.min(axis=1).sum()
        return spent, ranks

    def fits(log_step: Array) -> Bool[Array, ""]:
        return spend(jnp.exp2(log_step))[0] <= bits

    step = jnp.exp2(least_fitting(fits, -24, 3, halvings=20))
    return step, spend(step)[1]


def _octaves(
    turned: Sequence[Float[Array, "_matrices _rows _columns"]],
) -> list[Int[Array, "_matrices _rows"]]:
    """Octaves by which each row's variance is below the largest, at most `_CLASSES` - 1."""
    variances = [(a * a).mean(axis=2) if a.size else a.sum(axis=2) for a in turned]
    top = jnp.stack([jnp.float32(_TINY), *(v.max(initial=0) for v in variances)]).max()
    # top is the largest of noisy variances: the offset keeps rows of its true variance together
    below = [jnp.log2(top / jnp.maximum(v, _TINY)) - 0.25 for v in variances]
    return [jnp.clip(jnp.round(b), 0, _CLASSES - 1).astype(jnp.int32) for b in below]


def _differences(octaves: Sequence[Int[Array, "_matrices _rows"]]) -> Int[Array, " rows"]:
    return jnp.diff(_concatenated(octaves, jnp.int32), prepend=jnp.zeros(1, jnp.int32))


def _side_bits(
    groups: Sequence[Group],
    directions: Sequence[Int[Array, "_matrices _rows _count"]],
    octaves: Sequence[Int[Array, "_matrices _rows"]],
    ranks: Sequence[Int[Array, "_matrices"]],
) -> Float[Array, ""]:
    """Return the bits of directions and octaves, tables included."""
    codes, differences = _concatenated(directions, jnp.int32), _differences(octaves)
    bits = symbols_bits(
        codes, _direction_classes(groups, octaves, ranks), count=_CLASSES + _FINER + 1
    )
    return bits + symbols_bits(differences, jnp.zeros_like(differences), count=1)


def _entry_classes(
    groups: Sequence[Group], octaves: Sequence[Int[Array, "_matrices _rows"]]
) -> Int[Array, " n"]:
    """Class of each entry of the turned matrices, 0 for rows of the largest variance."""
    each = [
        jnp.broadcast_to(o[:, :, None], (g.matrices, g.rows, g.columns))
        for g, o in zip(groups, octaves, strict=True)
    ]
    return _concatenated(each, jnp.int32)


def _direction_classes(
    groups: Sequence[Group],
    octaves: Sequence[Int[Array, "_matrices _rows"]],
    ranks: Sequence[Int[Array, "_matrices"]],
) -> Int[Array, " n"]:
    """Class of each entry of the directions; that of unused directions is the last."""
    each = []
    for g, octave, rank in zip(groups, octaves, ranks, strict=True):
        count = _most_directions(g)
        # a direction has the energy of its row, spread over fewer entries
        longer = round(math.log2(g.columns / g.rows)) if count else 0
        classes = jnp.clip(octave[:, :count] + _FINER - longer, 0, _CLASSES + _FINER - 1)
        classes = jnp.where(_used(rank, count), classes, _CLASSES + _FINER)
        each.append(jnp.broadcast_to(classes[:, None], (g.matrices, g.rows, count)))
    return _concatenated(each, jnp.int32)


def _used(rank: Int[Array, " matrices"], count: int) -> Bool[Array, "matrices count"]:
    return jnp.arange(count) < rank[:, None]


def _by_class(
    classes: Int[Array, " n"], count: int
) -> tuple[Int[Array, " n"], Int[Array, " n"], Int[Array, " classes"]]:
    """Order entries by class; return the order, the classes in it, and the entries per class."""
    order = jnp.argsort(classes.astype(jnp.int8), stable=True)
    return order, classes[order], jnp.bincount(classes, length=count).astype(jnp.int32)


def _concatenated(parts: Sequence[Array], dtype: Any) -> Array:
    return jnp.concatenate([jnp.zeros(0, dtype), *(part.reshape(-1) for part in parts)])


def _split(vector: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Split a vector into arrays of the given shapes."""
    out, start = [], 0
    for shape in shapes:
        out.append(vector[start : start + math.prod(shape)].reshape(shape))
        start += math.prod(shape)
    return out
