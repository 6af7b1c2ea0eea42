"""Texts of a gradient, found token by token: the second test of DAGER (arXiv:2405.15586)."""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from fedjax_compression.checks import check_integer, check_kind, check_number
from fedjax_compression.errors import message
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree
from numpy.typing import ArrayLike

from ..models import Decoder
from ..models.masks import segment_mask
from .arrays import as_float64, as_vocabulary
from .spans import block, distances_from, inputs_of, span_basis

_READERS = ("q_proj", "k_proj", "v_proj", "qkv_proj")
"""Projections that read the input of an attention layer."""
_TOGETHER = 512
"""Prefixes that go through the first block at once."""


class Text(NamedTuple):
    """A text that a gradient reveals.

    Attributes:
        tokens: Its token ids, `[seq]`.
        distance: Mean over its tested places of the distance from the second layer's span, from 0
            to 1.

    """

    tokens: Int[np.ndarray, " seq"]
    distance: float


def recover_texts(
    model: Decoder,
    gradient: PyTree,
    *,
    length: int,
    texts: int | None = None,
    near: float | int = 1e-3,
    most_tokens: int = 256,
    most_prefixes: int = 256,
    starts: ArrayLike | None = None,
    rank_tolerance: float | int = 1e-5,
    max_rank: int | None = None,
) -> list[Text]:
    """Recover the texts of a client from its gradient of the first two attention layers.

    DAGER's search (Petrov et al. 2024, arXiv:2405.15586, section 5) for causal decoders. Tokens
    whose input of the first layer lies in the span of that layer's gradient are candidates: at any
    place with rotary positions, and at one place with learned positions. Prefixes grow by a
    candidate at a time; each goes through the first block, and stays if the last token's input of
    the second layer lies in that layer's span. A prefix that nothing extends is a text.

    The span is that of all projections in the gradient which read the layer's input: queries, keys
    and values, each in the scale of its largest singular value, as kernels or as LoRA's A. The
    authors use the query's kernel, or GPT-2's fused one.

    Guarantee: for a gradient of one batch, or the update of one SGD step, with fewer tokens than
    the span's dimensions, no text is missed but for rounding and the limits below. Not recovered:
    the last target of a text, which is no input; a text that begins another one; how often a text
    occurs.

    The first token of a text attends to itself alone, so that its query has no gradient. Without
    keys and values it is tested by the second token's input alone, and any token of the vocabulary
    may be it, unless `starts` are given, such as the token that begins every text. With rotary
    positions a token that is repeated from the beginning of a text reads the same at each place,
    so that no repetition is told of a text of one token; what follows tells the others. Without
    keys and values a text that begins with a repetition is not recovered.

    A codec's noise fills all dimensions. With `max_rank` the number of tokens and `near` 1, every
    candidate counts and the search is a beam search for texts of `length` tokens by mean distance.

    Work: at most `most_prefixes * most_tokens` prefixes at each place go through one block; at the
    second place without keys and values, `vocab * most_tokens`.

    Args:
        model: The client's decoder before the step, with its adapter, as `task.model` makes it.
        gradient: Decoded gradient or update of its trained parameters, in any scale: nested
            dictionaries like the task's `params`, of which `blocks/attention` is read.
        length: Most tokens in a text, at least 2.
        texts: How many texts to return. If more were found, a text that agrees with a better one
            in half of its places or more comes after all others. Default: all.
        near: Distance from a span at which an input counts as in it, above 0 and at most 1. An
            update made as a difference of parameters has their rounding, and needs more at a small
            learning rate. Default: .001.
        most_tokens: Most candidates for a place, the nearest ones. Default: 256.
        most_prefixes: Most prefixes that stay, those of the smallest mean distance, and no more
            than an eighth with the same first token if others are there. Default: 256.
        starts: Token ids that may begin a text, `[starts]`. Default: the candidates, or all.
        rank_tolerance: As for `span_distances`. Default: 1e-5.
        max_rank: As for `span_distances`, of each layer. Default: no limit.

    Returns:
        The texts, longer ones first, then those of smaller distance.

    Raises:
        TypeError: If `model` is not a `Decoder`.
        ValueError: For a model of one block or with a split stack, a gradient without these
            projections or of other shapes, with a NaN or an infinity, a value out of bounds, and a
            span of all dimensions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.audits import recover_texts
        >>> from fedjax_llm.data import Batch
        >>> config = DecoderConfig(vocab_size=50, hidden_size=16, num_attention_heads=2)
        >>> task = language_model(config, key=jax.random.key(0))
        >>> text = jnp.array([[7, 42, 7, 3]])
        >>> batch = Batch(text[:, :-1], text[:, 1:], jnp.ones((1, 3), bool))
        >>> gradient = jax.grad(task.loss)(task.params, task.frozen, batch)
        >>> model = task.model(task.params, task.frozen)
        >>> [text.tokens.tolist() for text in recover_texts(model, gradient, length=8)]
        [[7, 42, 7]]

    """
    who = "recover_texts"
    check_kind(model, Decoder, who=who, name="model", expected="a Decoder")
    for name, value, smallest in (
        ("length", length, 2),
        ("most_tokens", most_tokens, 1),
        ("most_prefixes", most_prefixes, 1),
        *((("texts", texts, 1),) if texts is not None else ()),
        *((("max_rank", max_rank, 1),) if max_rank is not None else ()),
    ):
        check_integer(value, who=who, name=name, at_least=smallest)
    check_number(near, who=who, name="near", above=0, at_most=1)
    check_number(rank_tolerance, who=who, name="rank_tolerance", above=0, below=1)
    config = model.config
    if config.num_hidden_layers < 2 or model.before is not None or model.after is not None:
        raise ValueError(f"{who}: model: expected one stack of two blocks or more.")
    learned = config.position_embeddings == "learned"
    if learned:
        most = config.max_position_embeddings
        check_integer(length, who=who, name="length", at_least=2, at_most=most)
    kernels, names = _kernels(gradient, config.hidden_size, who)
    first, second = (
        span_basis(k, rank_tolerance=rank_tolerance, max_rank=max_rank, who=who, name="gradient")
        for k in kernels
    )
    tested = names != {"q_proj"}  # whether a text's first token is in the spans
    least = 1 if tested else 2  # tokens of the shortest text

    def candidates(place: int) -> Int[np.ndarray, " found"]:
        distances = distances_from(inputs_of(model, place), first)
        nearest = np.argsort(distances, kind="stable")[:most_tokens]
        return nearest[distances[nearest] <= near]

    def extended(
        prefixes: Int[np.ndarray, "prefixes seq"], ids: Int[np.ndarray, " found"]
    ) -> tuple[Callable, Float[np.ndarray, "prefixes found"]]:
        """Rows by their number, and the distance of each prefix with each token after it."""
        place, count = prefixes.shape[1], len(prefixes) * len(ids)

        def rows(numbers: Int[np.ndarray, " rows"]) -> Int[np.ndarray, "rows length"]:
            before, last = np.divmod(numbers, len(ids))
            return np.concatenate([prefixes[before], ids[last, None]], axis=1)

        found = np.empty(count)
        for start in range(0, count, _TOGETHER):
            numbers = np.arange(start, min(start + _TOGETHER, count))
            tokens = np.zeros((_TOGETHER, length), np.int32)  # what follows is not attended to
            tokens[: len(numbers), : place + 1] = rows(numbers)
            inputs = _second_inputs(graph, state, tokens, place)[: len(numbers)]
            found[numbers] = distances_from(np.asarray(inputs, np.float64), second)
        return rows, found.reshape(len(prefixes), len(ids))

    graph, state = nnx.split(model)
    anywhere = None if learned else candidates(0)
    done: list[Text] = []
    prefixes, sums = np.zeros((1, 0), np.int64), np.zeros(1)
    for place in range(length):
        ids = candidates(place) if anywhere is None else anywhere
        if place == 0 and starts is not None:
            ids = as_vocabulary(starts, config.vocab_size, who=who, name="starts")
        elif place == 0 and not tested:
            ids = np.arange(config.vocab_size)
        if place == 0 and not tested:
            prefixes, sums = ids[:, None], np.zeros(len(ids))
            continue
        rows, distances = extended(prefixes, ids)
        stays = distances <= near
        if place >= least:
            ended = np.flatnonzero(~stays.any(axis=1))
            done += _texts(prefixes[ended], sums[ended], tested)
        totals = (sums[:, None] + distances)[stays]
        numbers = np.flatnonzero(stays)
        begun = prefixes[numbers // len(ids), 0] if place else ids[numbers]
        kept = _best(totals, begun, most_prefixes)
        prefixes, sums = rows(numbers[kept]), totals[kept]
    done += _texts(prefixes, sums, tested)
    done = done if learned else _cut(done, least)
    done.sort(key=lambda text: (-len(text.tokens), text.distance))
    return done if texts is None else _distinct(done)[:texts]


def _best(totals: np.ndarray, begun: np.ndarray, most: int) -> np.ndarray:
    """The rows of the smallest totals; beyond an eighth, those of one first token come last."""
    order = np.argsort(totals, kind="stable")
    if len(order) <= most:
        return order
    before: Counter = Counter()
    late = np.zeros(len(order), bool)
    for rank, token in enumerate(begun[order].tolist()):
        late[rank] = before[token] >= most / 8
        before[token] += 1
    return order[np.argsort(late, kind="stable")[:most]]


def _texts(prefixes: np.ndarray, sums: np.ndarray, tested: bool) -> list[Text]:
    places = prefixes.shape[1] - (not tested)
    return [Text(row, float(total) / places) for row, total in zip(prefixes, sums, strict=True)]


def _cut(found: list[Text], least: int) -> list[Text]:
    """Texts of one token are cut to the least length, and left out if others begin so."""
    chosen, cut = [], {}
    for text in found:
        if (text.tokens == text.tokens[0]).all():
            cut[text.tokens[0]] = text._replace(tokens=text.tokens[:least])
        else:
            chosen.append(text)
    begun = [text.tokens[:least] for text in chosen]
    return chosen + [t for t in cut.values() if not any((t.tokens == b).all() for b in begun)]


def _distinct(found: list[Text]) -> list[Text]:
    """Those that differ in more than half of their places from each before, then the others."""
    chosen: list[Text] = []
    others: list[Text] = []
    for text in found:
        size = len(text.tokens)
        alike = (
            2 * (text.tokens[: len(one.tokens)] == one.tokens[:size]).sum() >= size
            for one in chosen
        )
        (others if any(alike) else chosen).append(text)
    return chosen + others


def _kernels(gradient: Any, width: int, who: str) -> tuple[list[np.ndarray], set[str]]:
    """The gradients of the first two layers, each of all projections that read a layer's input."""
    try:
        attention = gradient["blocks"]["attention"]
        leaves = {
            name: attention[name]["adapter"]["a"]
            if "adapter" in attention[name]
            else attention[name]["kernel"]
            for name in _READERS
            if name in attention
        }
    except (KeyError, TypeError):
        leaves = {}
    if not leaves:
        raise ValueError(
            f"{who}: gradient: expected nested dictionaries with the kernel, or an adapter's a, of "
            "one or more of q_proj, k_proj, v_proj and qkv_proj in blocks/attention, got none."
        )
    layers: list[list[np.ndarray]] = [[], []]
    used = set()
    for name, leaf in leaves.items():
        stack = as_float64(leaf, "layers", "inputs", "outputs", who=who, name="gradient")
        if len(stack) < 2 or stack.shape[1] != width:
            expected = f"two layers or more of numbers [{width}, outputs] in {name}"
            raise ValueError(message(who, "gradient", expected, list(stack.shape)))
        norms = [np.linalg.norm(stack[layer], ord=2) for layer in (0, 1)]
        if all(norms):
            used.add(name)
        for layer, norm in enumerate(norms):
            layers[layer].append(stack[layer] / (norm or 1.0))
    return [np.concatenate(own, axis=1) for own in layers], used


@functools.partial(jax.jit, static_argnums=0)
def _second_inputs(
    graph: Any, state: Any, tokens: Int[Array, "batch seq"], place: Int[Array, ""] | int
) -> Float[Array, "batch width"]:
    """What the second attention layer reads at a place of each row."""
    model = nnx.merge(graph, state)
    positions, segments = model._positions_and_segments(tokens.shape[1], None, None)
    view = model._views(positions, segment_mask(segments), 0)(int(model.config.sliding[0]))
    x, _ = block(model, 0)(model._embed(tokens, positions), view, None)
    return block(model, 1).input_norm(x[:, place])
