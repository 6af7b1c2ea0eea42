"""Texts whose gradient matches a client's: TAG (arXiv:2103.06819) and LAMP (arXiv:2202.08827)."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from fedjax_compression.checks import check_choice, check_integer, check_kind, check_number
from fedjax_compression.errors import message
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree
from numpy.typing import ArrayLike

from ..models import Decoder
from ..models.masks import segment_mask
from .arrays import as_float64, as_vocabulary

_WARM, _COLD = 0.2, 0.05
"""Temperature of the targets, first and last."""


class Match(NamedTuple):
    """Texts whose gradient is near a client's.

    Attributes:
        tokens: Token ids, `[batch, length]`.
        distance: Distance of their gradient from the client's: 0 for the right texts.

    """

    tokens: Int[np.ndarray, "batch length"]
    distance: float


class _Settings(NamedTuple):
    """What an optimisation is compiled for."""

    shape: tuple[int, int]
    by_layer: tuple[bool, ...]
    places: tuple[int, ...]
    cosine: bool
    l1: float
    steps: int
    learning_rate: float
    decay: float
    norm_weight: float
    prior_weight: float
    permutations: int
    every: int
    restarts: int


def match_gradients(
    model: Decoder,
    gradient: PyTree,
    *,
    key: Key[Array, ""],
    length: int,
    batch: int = 1,
    candidates: ArrayLike | None = None,
    distance: Literal["cosine", "squared"] = "cosine",
    l1: float | int = 0.01,
    steps: int = 2000,
    learning_rate: float | int = 0.01,
    decay: float | int = 0.89,
    restarts: int = 4,
    norm_weight: float | int = 1.0,
    prior_weight: float | int = 0.2,
    prior: Decoder | None = None,
    permutations: int = 200,
    every: int = 75,
) -> Match:
    """Optimise dummy texts until their gradient matches a client's, as TAG and LAMP do.

    Dummies are vectors in place of the tokens' embeddings. Adam makes the gradient that they give
    for the trained parameters like the client's, by one of two distances: the mean over tensors of
    1 - cosine (LAMP, Balunovic et al. 2022, arXiv:2202.08827), which needs no scale, or the sum of
    squared differences and `l1` times absolute differences (Deng et al. 2021, TAG,
    arXiv:2103.06819). LAMP adds `norm_weight` times the squared difference between the dummies'
    mean norm and the embeddings'. Every so many steps it takes the best of some permutations of
    each text's places, which swap two, move one or a run, or bring the first ones to the end, by
    distance and `prior_weight` times the loss of the nearest tokens under a public model. The rate
    falls by `decay` every 50 steps. TAG is `distance="squared"` with `norm_weight=0` and
    `permutations=0`.

    In the papers labels are classes, which are known. Here the targets are the next tokens: dummy
    t is an input and, by the softmax of its cosines with all embeddings, the target at t - 1; the
    last dummy is a target alone. Departures: the softmax's temperature falls from .2 to .05 in
    equal ratios from one round of permutations to the next; after the last step the embeddings of
    the nearest tokens are permuted in as many rounds again, which finds the order of right tokens;
    and the best of several whole runs is returned, by the distance of its tokens' gradient, in
    place of the best of 500 starts.

    The gradient is that of the mean loss of `language_model` over texts of equal length without
    padding. Its embedding table is not matched, as dummies have no rows: its rows tell tokens more
    directly (`revealed_tokens`, which `candidates` can take). Nothing guarantees a recovery: where
    the optimisation fails, tokens are nonsense, and `distance` is large.

    Args:
        model: The client's decoder before the step, with its adapter, as `task.model` makes it.
        gradient: Decoded gradient of its trained parameters, nested dictionaries like the task's
            `params`; the update of an SGD step is minus its learning rate times that. "cosine"
            takes any scale above 0.
        key: PRNG key of the dummies and permutations.
        length: Tokens in each text, the last target included, at least 2.
        batch: Number of texts. Default: 1.
        candidates: Token ids that may occur, `[candidates]`. Default: all.
        distance: "cosine" (default) or "squared".
        l1: Weight of the absolute differences in "squared", at least 0. Default: .01.
        steps: Steps of Adam, at least `every`; whole rounds of `every` are done. Default: 2000.
        learning_rate: Adam's first rate, above 0. Default: .01.
        decay: Factor of the rate every 50 steps, above 0 and at most 1. Default: .89.
        restarts: Whole runs, at least 1. Default: 4.
        norm_weight: Weight of the norm's term, at least 0. Default: 1.
        prior_weight: Weight of the prior, at least 0. Default: .2.
        prior: The public model, over the same vocabulary. Default: `model`.
        permutations: Permutations tried each time, 0 for none. Default: 200.
        every: Steps between permutations, at least 1. Default: 75.

    Returns:
        The texts and their distance.

    Raises:
        TypeError: If `model` or `prior` is not a `Decoder`.
        ValueError: For a gradient with leaves that the model does not have, of other shapes, of
            zeros, or with a NaN or an infinity, and for a value out of bounds.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.audits import match_gradients
        >>> from fedjax_llm.data import Batch
        >>> config = DecoderConfig(vocab_size=10, hidden_size=16, num_attention_heads=2)
        >>> task = language_model(config, key=jax.random.key(0))
        >>> text = jnp.array([[7, 4, 3]])
        >>> batch = Batch(text[:, :-1], text[:, 1:], jnp.ones((1, 2), bool))
        >>> gradient = jax.grad(task.loss)(task.params, task.frozen, batch)
        >>> model = task.model(task.params, task.frozen)
        >>> match_gradients(
        ...     model, gradient, key=jax.random.key(1), length=3, steps=300, learning_rate=0.03
        ... ).tokens.tolist()
        [[7, 4, 3]]

    """
    who = "match_gradients"
    for name, one in (("model", model), ("prior", model if prior is None else prior)):
        check_kind(one, Decoder, who=who, name=name, expected="a Decoder")
    check_choice(distance, ("cosine", "squared"), who=who, name="distance")
    for name, count, least in (
        ("length", length, 2),
        ("batch", batch, 1),
        ("every", every, 1),
        ("steps", steps, 1),
        ("restarts", restarts, 1),
        ("permutations", permutations, 0),
    ):
        check_integer(count, who=who, name=name, at_least=least)
    check_integer(steps, who=who, name="steps", at_least=every)
    check_number(learning_rate, who=who, name="learning_rate", above=0)
    check_number(decay, who=who, name="decay", above=0, at_most=1)
    for name, weight in (("l1", l1), ("norm_weight", norm_weight), ("prior_weight", prior_weight)):
        check_number(weight, who=who, name=name, at_least=0)
    vocab = model.config.vocab_size
    ids = np.arange(vocab)
    if candidates is not None:
        ids = as_vocabulary(candidates, vocab, who=who, name="candidates")
    graph, state = nnx.split(model)
    target, places, by_layer = _matched(gradient, state, who)
    settings = _Settings(
        shape=(batch, length),
        by_layer=by_layer,
        places=places,
        cosine=distance == "cosine",
        l1=float(l1),
        steps=steps,
        learning_rate=float(learning_rate),
        decay=float(decay),
        norm_weight=float(norm_weight),
        prior_weight=float(prior_weight),
        permutations=permutations,
        every=every,
        restarts=restarts,
    )
    public = nnx.split(model if prior is None else prior)
    tokens, distances = _optimise(
        graph, settings, public[0], state, public[1], target, jnp.asarray(ids), key
    )
    best = int(np.argmin(np.nan_to_num(np.asarray(distances), nan=np.inf)))
    return Match(np.asarray(tokens[best], np.int64), float(distances[best]))


def _matched(
    gradient: Any, state: Any, who: str
) -> tuple[list[Array], tuple[int, ...], tuple[bool, ...]]:
    """The leaves to match, their places among the model's, and whether each is one of the blocks'.

    Those of zeros are left out: nothing has their direction.
    """
    names, leaves = {}, []
    for place, (path, leaf) in enumerate(
        jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))[0]
    ):
        names[jax.tree_util.keystr(path)] = (place, leaf.shape, path[0].key == "blocks")
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]:
        name = jax.tree_util.keystr(path)
        if name not in names or np.shape(leaf) != names[name][1]:
            expected = "leaves of the model's parameters, in their shapes"
            raise ValueError(message(who, "gradient", expected, f"{name} {np.shape(leaf)}"))
        axes = [str(axis) for axis in range(np.ndim(leaf))]
        values = as_float64(leaf, *axes, who=who, name="gradient")
        if name != "['embedding']" and values.any():
            found.append((names[name][0], names[name][2]))
            leaves.append(jnp.asarray(values, jnp.float32))
    if not leaves:
        raise ValueError(f"{who}: gradient: expected leaves besides the embedding's, not zero.")
    places, by_layer = zip(*found, strict=True)
    return leaves, places, by_layer


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _optimise(
    graph: Any,
    settings: _Settings,
    public_graph: Any,
    state: Any,
    public_state: Any,
    target: list[Array],
    ids: Int[Array, " candidates"],
    key: Key[Array, ""],
) -> tuple[Int[Array, "restarts batch length"], Float[Array, " restarts"]]:
    """Run all restarts: their tokens, and the distances of the tokens' gradients."""
    s, size = settings, settings.shape[1]
    every_leaf, structure = jax.tree.flatten(state)
    trained = [every_leaf[place] for place in s.places]
    table = nnx.merge(graph, state).embedding[...]
    norm = jnp.linalg.norm(table, axis=1).mean()
    rows = table[ids]
    units = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    rounds = s.steps // s.every

    def loss(params: list[Array], inputs: Array, targets: Array) -> Float[Array, ""]:
        leaves = list(every_leaf)
        for place, leaf in zip(s.places, params, strict=True):
            leaves[place] = leaf
        model = nnx.merge(graph, jax.tree.unflatten(structure, leaves))
        logs = jax.nn.log_softmax(_logits(model, inputs))[..., ids]
        return -(logs * targets).sum(axis=-1).mean()

    def away(inputs: Array, targets: Array) -> Float[Array, ""]:
        """Distance of the gradient of inputs and targets from the client's."""
        dummies = jax.grad(loss)(trained, inputs, targets)
        both = zip(dummies, target, s.by_layer, strict=True)
        if not s.cosine:
            gaps = [a - b for a, b, _ in both]
            return sum((g**2).sum() + s.l1 * jnp.abs(g).sum() for g in gaps)
        return jnp.concatenate([_turned(a, b, layers) for a, b, layers in both]).mean()

    def cosines(x: Float[Array, "batch length width"]) -> Float[Array, "batch length candidates"]:
        return x @ units.T / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def reconstruction(x: Array, temperature: Array) -> Float[Array, ""]:
        return away(x[:, :-1], jax.nn.softmax(cosines(x[:, 1:]) / temperature))

    def objective(x: Array, temperature: Array) -> Float[Array, ""]:
        size_gap = jnp.linalg.norm(x, axis=-1).mean() - norm
        return reconstruction(x, temperature) + s.norm_weight * size_gap**2

    def unlikely(tokens: Int[Array, "batch length"]) -> Float[Array, ""]:
        """Loss of the tokens under the public model."""
        logits = nnx.merge(public_graph, public_state)(tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def permuted(x: Array, temperature: Array, key: Key[Array, ""]) -> Array:
        for text in range(s.shape[0]):
            key, own = jr.split(key)
            orders = jax.vmap(lambda number, key: _order(number, key, size))(
                jnp.arange(s.permutations + 1), jr.split(own, s.permutations + 1)
            )

            def score(order: Array, x: Array = x, text: int = text) -> Float[Array, ""]:
                moved = x.at[text].set(x[text, order])
                away_from = reconstruction(moved, temperature)
                return away_from + s.prior_weight * unlikely(ids[cosines(moved).argmax(axis=-1)])

            best = jax.lax.map(score, orders).argmin()
            x = x.at[text].set(x[text, orders[best]])
        return x

    rate = optax.exponential_decay(s.learning_rate, 50, s.decay, staircase=True)
    adam = optax.adam(rate)

    def run(key: Key[Array, ""]) -> tuple[Array, Array]:
        start, moves = jr.split(key)
        x = jr.normal(start, (*s.shape, table.shape[1]))
        x = x / jnp.linalg.norm(x, axis=-1, keepdims=True) * norm

        def one_round(carry: tuple, number: Array) -> tuple[tuple, None]:
            temperature = _WARM * (_COLD / _WARM) ** (number / max(rounds - 1, 1))

            def step(carry: tuple, _: None) -> tuple[tuple, None]:
                x, memory = carry
                change, memory = adam.update(jax.grad(objective)(x, temperature), memory)
                return (optax.apply_updates(x, change), memory), None

            (x, memory), _ = jax.lax.scan(step, carry, None, length=s.every)
            if s.permutations:
                x = permuted(x, temperature, jr.fold_in(moves, number))
            return (x, memory), None

        (x, _), _ = jax.lax.scan(one_round, (x, adam.init(x)), jnp.arange(rounds))
        x = rows[cosines(x).argmax(axis=-1)]
        if s.permutations:
            last = jr.split(jr.fold_in(moves, rounds), rounds)
            x, _ = jax.lax.scan(
                lambda x, key: (permuted(x, jnp.float32(_COLD), key), None), x, last
            )
        nearest = cosines(x).argmax(axis=-1)
        exact = jax.nn.one_hot(nearest[:, 1:], len(ids))
        return ids[nearest], away(rows[nearest[:, :-1]], exact)

    return jax.lax.map(run, jr.split(key, s.restarts))


def _logits(model: Decoder, x: Float[Array, "batch seq width"]) -> Float[Array, "batch seq vocab"]:
    """What a decoder computes of rows of its embedding table, or of vectors in their place."""
    positions, segments = model._positions_and_segments(x.shape[1], None, None)
    x = model._scaled_with_positions(x, positions)
    return model._logits(model._run_blocks(x, positions, segment_mask(segments), 0, None)[0])


def _turned(dummy: Array, target: Array, layers: bool) -> Float[Array, " layers"]:
    """1 - cosine of two tensors, or of each layer of two stacks; 1 where the target is zero."""
    axes = tuple(range(1, dummy.ndim)) if layers else None
    size = jnp.sqrt((target**2).sum(axis=axes, keepdims=True))
    target = target / jnp.where(size > 0, size, 1.0)
    own = jnp.sqrt((dummy**2).sum(axis=axes) + 1e-20)  # whose derivative at 0 is finite
    return jnp.atleast_1d(1 - (dummy * target).sum(axis=axes) / own)


def _order(number: Array, key: Key[Array, ""], size: int) -> Int[Array, " size"]:
    """A permutation: none (0), and then by turns the four kinds of LAMP."""
    a, b, to = jr.randint(key, (3,), 0, size + 1)
    places, kind = jnp.arange(size), number % 4
    swapped = places.at[a % size].set(b % size).at[b % size].set(a % size)
    first = jnp.where(kind == 1, a % size, jnp.where(kind == 2, jnp.minimum(a, b), 0))
    after = jnp.where(kind == 1, first + 1, jnp.where(kind == 2, jnp.maximum(a, b), a))
    to = jnp.where(kind == 3, size, to)
    moves = (places >= first) & (places < after)
    moved = jnp.argsort(jnp.where(moves, to - 0.5 + (places - first) / (2 * size), places))
    return jnp.where(number == 0, places, jnp.where(kind == 0, swapped, moved))
