"""The codec that spends a byte budget where an update has the most to say.

Three classical parts: a basis for each matrix in which few directions hold most of it, as in the
Karhunen-Loeve transform; one step for all entries, which is reverse water-filling over directions
and tensors; and entropy-coded trellis quantisation (Fischer & Wang 1992) with a table for each
octave of variance.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_countable, check_floating
from ..ops.magnitudes import largest_magnitude
from ..ops.matrices import Group, gather_matrices, groups_of, scatter_matrices
from ..ops.principal_basis import Reflections, from_axes, principal_directions, reflections, to_axes
from ..ops.union_trellis import check_trellis
from ..wire import HEADER_BYTES
from ..wire.leaves import Symbols
from .trellis_bits import histogram, message_bits
from .trellis_path import PATH_BYTES, Path, find_path, walk_path

_CLASSES = 16
"""Octaves of a row's variance, below the largest, that have tables of their own."""
_FINER = 8
"""Octaves above them in which directions may lie."""
_MOST_DIRECTIONS = 128
_DIRECTION_STEP = 3.0
"""Of the directions' step over the trellis's."""
_TINY = 1e-37


class Adaptive(NamedTuple):
    """Payload of an update."""

    path: Path
    """The rows of all matrices in their bases, those of larger variance first."""
    directions: Symbols
    """Each direction times the root of its energy, in steps, those of larger variance first."""
    step: Float[Array, ""]
    """Of the directions, as a share of the update's largest magnitude."""
    octaves: Symbols
    """Octaves of each row's variance below the largest, as differences from row to row."""
    ranks: list[UInt8[Array, "_matrices"]]
    """How many directions each matrix has, by group."""


def adaptive(*, rate: float | int, states: int = 32) -> Compressor:
    """Spend `rate` bits per entry on an update as its own statistics ask for.

    Each matrix (the last two axes of a leaf; what has fewer axes is one row) is turned into the
    basis of its own largest directions, as many as save more than they cost: none where it has no
    such structure, half of its rows at most. The directions are sent, the turned rows are coded
    by the entropy-coded trellis, with one step for all and tables by the row's variance. Updates
    of language models lie in few directions, and err several dB less than Shannon's bound for a
    Gaussian of their variance; on a Gaussian it is `trellis`. Nothing is rotated at random, which
    would make every update as hard as a Gaussian.

    Least error, biased: for use under `error_feedback` or with many clients; `unbiased_scale`
    makes the scale right, not the direction. Zeros are exact; an update with a NaN or an infinity
    decodes to NaNs. The receiver's basis is recomputed from the integers sent, so that decoding
    agrees between machines to rounding.
    Message: at most `rate` bits per entry, header, tables and directions and all, unless that is
    less than the overhead of about 200 bytes; within 1 % of it as a rule, and a few percent below
    where tables are large beside it. Cost: one or two searches of `states`
    states an entry, some five on a sample of it, and for matrices of r by c about r * r * c
    operations; clients under `vmap` take turns.
    Raises `ValueError` unless 0 < rate <= 8 and `states` is a power of two from 4 to 1024.
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

        found = list(map(_directions, groups, x))
        totals = [(a * a).sum(axis=(1, 2)) for a in x]
        step, ranks = _plan(groups, [energy for _, energy in found], totals, bits)
        finer = _DIRECTION_STEP * step
        directions = [
            jnp.where(
                _used(rank, u.shape[2])[:, None], jnp.round(u * jnp.sqrt(e)[:, None] / finer), 0.0
            ).astype(jnp.int32)
            for (u, e), rank in zip(found, ranks, strict=True)
        ]
        turned = list(map(_turned(to_axes), directions, x))
        variances = [(a * a).mean(axis=2) if a.size else a.sum(axis=2) for a in turned]
        top = jnp.stack([jnp.float32(_TINY), *(v.max(initial=0) for v in variances)]).max()
        # rows of one variance, of which top is the largest that was met, are of one class
        below = [jnp.log2(top / jnp.maximum(v, _TINY)) - 0.25 for v in variances]
        octaves = [jnp.clip(jnp.round(b), 0, _CLASSES - 1).astype(jnp.int32) for b in below]
        order, classes, runs = _entry_order(groups, octaves)
        direction_order, direction_classes, direction_runs = _direction_order(
            groups, octaves, ranks
        )
        codes = _joined(directions, jnp.int32)[direction_order]
        differences = jnp.diff(_joined(octaves, jnp.int32), prepend=jnp.zeros(1, jnp.int32))
        beside = _plain_bits(codes, direction_classes, len(direction_runs))
        beside += _plain_bits(differences, jnp.zeros_like(differences), 1)
        fixed = HEADER_BYTES + PATH_BYTES + 4 + 2 * 16 + sum(len(rank) for rank in ranks)
        path = find_path(
            _joined(turned, jnp.float32)[order],
            classes,
            runs,
            bits=bits - beside - 8 * fixed,
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
        octaves = _parted(
            jnp.cumsum(jnp.asarray(payload.octaves.codes)), [(g.matrices, g.rows) for g in groups]
        )
        ranks = [jnp.asarray(rank).astype(jnp.int32) for rank in payload.ranks]
        order, _, _ = _entry_order(groups, octaves)
        values = walk_path(payload.path, states=states)
        turned = _parted(
            jnp.zeros_like(values).at[order].set(values),
            [(g.matrices, g.rows, g.columns) for g in groups],
        )
        order, _, _ = _direction_order(groups, octaves, ranks)
        codes = jnp.asarray(payload.directions.codes)
        directions = _parted(
            jnp.zeros_like(codes).at[order].set(codes),
            [(g.matrices, g.rows, _most_directions(g)) for g in groups],
        )
        x = map(_turned(from_axes), directions, turned)
        return scatter_matrices(list(x), groups, like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


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
    """The step that spends so many bits, about, and how many directions are worth sending at it."""

    def rate(variance: Array, step: Array) -> Array:
        return 0.5 * jnp.log2(1 + 4 * variance / step**2)  # of the trellis, measured

    def spend(step: Array) -> tuple[Array, list[Array]]:
        spent, ranks = jnp.zeros(()), []
        for g, energy, total in zip(groups, energies, totals, strict=True):
            used = jnp.arange(energy.shape[1] + 1, dtype=jnp.float32)
            none = jnp.zeros((g.matrices, 1))
            finer = _DIRECTION_STEP * step
            row = jnp.maximum(g.columns, 1)
            taken = jnp.concatenate([none, jnp.cumsum(energy, axis=1)], axis=1)
            # what the directions' rounding turns out of them stays with the other rows
            left = jnp.maximum(total[:, None] - taken, 0) / ((g.rows - used) * row)
            left += used * finer**2 / (12 * row)
            each = g.columns * rate(energy / row, step)
            each += g.rows * (0.5 * jnp.log2(1 + 17 * energy / g.rows / finer**2) + 0.1)
            own = jnp.concatenate([none, jnp.cumsum(each, axis=1)], axis=1)
            cost = own + (g.rows - used) * g.columns * rate(left, step)
            ranks.append(cost.argmin(axis=1).astype(jnp.int32))
            spent += cost.min(axis=1).sum()
        return spent, ranks

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        fits = spend(jnp.exp2(middle))[0] <= bits
        return jnp.where(fits, low, middle), jnp.where(fits, middle, high)

    widest = jnp.float32(-24), jnp.float32(3)
    step = jnp.exp2(jax.lax.fori_loop(0, 20, halve, widest)[1])
    return step, spend(step)[1]


def _entry_order(
    groups: Sequence[Group], octaves: Sequence[Int[Array, "_matrices _rows"]]
) -> tuple[Int[Array, " n"], Int[Array, " n"], Int[Array, " classes"]]:
    """All entries, those of rows of larger variance first; their classes, and how many of each."""
    each = [
        jnp.broadcast_to(o[:, :, None], (g.matrices, g.rows, g.columns))
        for g, o in zip(groups, octaves, strict=True)
    ]
    return _by_class(_joined(each, jnp.int32), _CLASSES)


def _direction_order(
    groups: Sequence[Group],
    octaves: Sequence[Int[Array, "_matrices _rows"]],
    ranks: Sequence[Int[Array, "_matrices"]],
) -> tuple[Int[Array, " n"], Int[Array, " n"], Int[Array, " classes"]]:
    """The same of the directions' entries; those that are not used come last."""
    each = []
    for g, octave, rank in zip(groups, octaves, ranks, strict=True):
        count = _most_directions(g)
        # the energy of a row is that of its direction, spread over fewer entries
        longer = round(math.log2(g.columns / g.rows)) if count else 0
        own = jnp.clip(octave[:, :count] + _FINER - longer, 0, _CLASSES + _FINER - 1)
        own = jnp.where(_used(rank, count), own, _CLASSES + _FINER)
        each.append(jnp.broadcast_to(own[:, None], (g.matrices, g.rows, count)))
    return _by_class(_joined(each, jnp.int32), _CLASSES + _FINER + 1)


def _used(rank: Int[Array, " matrices"], count: int) -> Bool[Array, "matrices count"]:
    return jnp.arange(count) < rank[:, None]


def _by_class(
    classes: Int[Array, " n"], count: int
) -> tuple[Int[Array, " n"], Int[Array, " n"], Int[Array, " classes"]]:
    order = jnp.argsort(classes.astype(jnp.int8), stable=True)
    return order, classes[order], jnp.bincount(classes, length=count).astype(jnp.int32)


def _plain_bits(codes: Int[Array, " n"], classes: Int[Array, " n"], count: int) -> Float[Array, ""]:
    """Of `Symbols`, tables and all."""
    return message_bits(histogram(codes, jnp.zeros_like(codes), classes, count))


def _joined(parts: Sequence[Array], dtype: Any) -> Array:
    return jnp.concatenate([jnp.zeros(0, dtype), *(part.reshape(-1) for part in parts)])


def _parted(vector: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    out, start = [], 0
    for shape in shapes:
        out.append(vector[start : start + math.prod(shape)].reshape(shape))
        start += math.prod(shape)
    return out
