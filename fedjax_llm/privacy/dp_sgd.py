"""DP-SGD (Abadi et al. 2016, arXiv:1607.00133, algorithm 1): clipped gradients of rows, noised."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_function, check_integer, check_number
from fedjax_compression.errors import message
from jaxtyping import Array, Float, Int, Key, PyTree

from ..precision import float32_zeros, in_dtypes
from .clipping import clip_rows
from .mechanism import Mechanism
from .noise import add_noise


class PrivateLoss(NamedTuple):
    """A loss whose gradient has noise, for a method's `loss`: what `dp_sgd` returns.

    Only a method that gives local steps a key for the noise can use it; any other would compute
    something of the data without noise. So a call raises `ValueError`.

    Attributes:
        loss: The loss, `(params, frozen, batch) -> mean over the counted targets`.
        clip: Largest norm of a row's gradient.
        noise_multiplier: Standard deviation of the noise on a step's sum, in units of `clip`.
        divisor: Constant that the noised sum is divided by; None for the rows of a batch.
        microbatch: Rows whose gradients are held at a time; None for a batch.
        rate: Probability of a row to be in a step; None for passes of shuffled rows.

    """

    loss: Callable[..., Float[Array, ""]]
    clip: float | int
    noise_multiplier: float | int
    divisor: float | int | None
    microbatch: int | None
    rate: float | int | None

    def __call__(self, params: PyTree, frozen: PyTree, batch: Any, /) -> Float[Array, ""]:
        expected = "a method whose clients take local steps of one optimizer on it and send the "
        expected += "difference, such as fed_avg, fed_prox or diloco"
        got = "one that computes something else of the data, which would have no noise"
        raise ValueError(message("dp_sgd", "loss", expected, got))

    @property
    def mechanism(self) -> Mechanism:
        """What a local step releases."""
        return Mechanism(self.noise_multiplier, self.divisor, "row", True, self.rate)

    def for_copy_of(self, params: PyTree) -> "PrivateLoss":
        """The loss for a copy of parameters in other dtypes."""
        return self._replace(loss=in_dtypes(self.loss, params))

    def value_and_gradient(
        self, key: Key[Array, ""], params: PyTree, frozen: PyTree, batch: Any
    ) -> tuple[Float[Array, ""], PyTree[Float[Array, "..."]]]:
        """Compute a step's mean loss, without noise, and its gradient, with noise in float32.

        Args:
            key: Key of the step's noise, used for nothing else.
            params: The trainable parameters.
            frozen: The others.
            batch: Leaves `[batch, ...]`. A row without a counted target adds nothing, and so does
                one whose gradient is not finite.

        Returns:
            The mean loss per target over the rows whose loss is finite, and the gradient.

        Raises:
            ValueError: For rows that are no multiple of `microbatch`.

        """
        rows = len(batch.mask)
        size = self.microbatch or rows
        if rows % size:
            expected = f"a divisor of the batch of {rows} rows"
            raise ValueError(message("dp_sgd", "microbatch", expected, size))

        def of_row(row: Any) -> tuple[Float[Array, ""], PyTree, Int[Array, ""]]:
            alone = jax.tree.map(lambda leaf: leaf[None], row)
            targets = alone.mask.sum(dtype=jnp.int32)
            value, gradient = jax.value_and_grad(self.loss)(params, frozen, alone)
            counts, known = targets > 0, (targets > 0) & jnp.isfinite(value)
            gradient = jax.tree.map(lambda leaf: jnp.where(counts, leaf, 0.0), gradient)
            value = jnp.where(known, value.astype(jnp.float32), 0.0)
            return value, gradient, jnp.where(known, targets, 0)

        def add(total: PyTree, part: Any) -> tuple[PyTree, tuple]:
            values, gradients, targets = jax.vmap(of_row)(part)
            clipped, _ = clip_rows(gradients, self.clip)
            total = jax.tree.map(lambda t, leaf: t + leaf.sum(axis=0), total, clipped)
            return total, (values, targets)

        parts = jax.tree.map(lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:]), batch)
        total, (values, targets) = jax.lax.scan(add, float32_zeros(params), parts)
        noised = add_noise(key, total, self.noise_multiplier * self.clip)
        divisor = self.divisor or rows
        mean = (values * targets).sum() / jnp.maximum(targets.sum(), 1)
        return mean, jax.tree.map(lambda leaf: leaf / divisor, noised)


class KeyedBatches(NamedTuple):
    """A client's batches of a round, with the key of its noise.

    Attributes:
        batches: The batches.
        key: The key, from which each local step's is made.

    """

    batches: Any
    key: Key[Array, ""]

    @property
    def mask(self) -> Any:
        """The mask of the batches."""
        return self.batches.mask


def dp_sgd(
    loss: Callable[..., Float[Array, ""]],
    *,
    clip: float | int,
    noise_multiplier: float | int,
    divisor: float | int | None = None,
    microbatch: int | None = None,
    rate: float | int | None = None,
) -> PrivateLoss:
    """Make a loss whose gradient is that of DP-SGD: clipped row by row, summed, noised, divided.

    Each local step clips the gradient of each row of its batch to norm `clip`, all parameters
    together, sums, adds Gaussian noise of standard deviation `noise_multiplier * clip` to each
    entry of the sum, and divides by a constant. The client's optimizer and all that follows is
    post-processing, whatever the codec, its error feedback or the aggregate. So the server need not
    be trusted: what a client sends has the noise.

    Privacy: the unit is a row, such as a window of tokens or a pair, not a document nor a person.
    One row moves a step's sum by at most `clip` for each time that it is in the batch, zeroed out,
    and by twice that, replaced. How many rows and targets a client has, and which of its steps have
    rows, is taken to be known. `releases_of_row` counts the steps that see a row, for `Account`.
    Without a `rate` there is no amplification, as the order of the rows comes from the public
    seed, and shuffled passes have no tight analysis. With a `rate`, `simulate` draws each row for
    each step with that probability, from the secret.

    The noise is drawn and added in float32, from the client's key, which `simulate(..., secret=)`
    makes of the secret. All rows weigh alike, whatever their targets, where the plain gradient
    weighs them by their targets.

    Memory: the gradients of `microbatch` rows. Cost: see `docs/privacy.md`.

    Args:
        loss: The loss: `(params, frozen, batch) -> mean over the targets that the batch's mask
            counts`. It may not depend on how many rows a batch has: it is called with one row.
        clip: Largest norm of a row's gradient, above 0.
        noise_multiplier: Standard deviation of the noise on the sum in units of `clip`, above 0.
        divisor: Constant that the sum is divided by, above 0. Default: the rows of a batch, also
            where a client has fewer.
        microbatch: Rows whose gradients are computed at a time, a divisor of the batch. Default:
            the whole batch.
        rate: Probability, above 0 and at most 1, of each row to be in each local step; the batch
            then is the room, and larger draws are cut at random. Steps without a row release noise
            like any other. Default: passes of shuffled rows.

    Returns:
        The loss, for the `loss` of a method such as `fed_avg`, which then has a `mechanism`.

    Raises:
        TypeError: For a loss that cannot be called.
        ValueError: For a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.data import from_arrays, masked_mean
        >>> from fedjax_llm.data.arrays import ArrayBatch
        >>> from fedjax_llm.privacy import dp_sgd
        >>> loss = masked_mean(lambda w, frozen, x: (w * x).sum(axis=-1))  # its gradient is the row
        >>> batch = ArrayBatch(jnp.array([[3.0, 4.0], [0.3, 0.4], [9.0, 9.0]]), jnp.arange(3) < 2)
        >>> private = dp_sgd(loss, clip=1.0, noise_multiplier=1e-6, divisor=1)
        >>> _, gradient = private.value_and_gradient(jax.random.key(0), jnp.zeros(2), (), batch)
        >>> [round(float(x), 3) for x in gradient]  # .6 + .3, .8 + .4
        [0.9, 1.2]

    """
    who = "dp_sgd"
    check_function(loss, who=who, name="loss", signature="(params, frozen, batch) -> mean loss")
    check_number(clip, who=who, name="clip", above=0)
    check_number(noise_multiplier, who=who, name="noise_multiplier", above=0)
    if divisor is not None:
        check_number(divisor, who=who, name="divisor", above=0)
    if microbatch is not None:
        check_integer(microbatch, who=who, name="microbatch", at_least=1)
    if rate is not None:
        check_number(rate, who=who, name="rate", above=0, at_most=1)
    return PrivateLoss(loss, clip, noise_multiplier, divisor, microbatch, rate)


def releases_of_row(rows: int, batch: int, drawn: int) -> int:
    """Count the releases of a round that one row can be in, where rows come in shuffled passes.

    A client goes over its rows in random orders, one pass after another, in batches that follow
    each other. A row that is in a batch c times, at the border of two passes or because the batch
    is larger than a pass, moves its sum by up to c clips: like c^2 releases, by the composition of
    Gaussian mechanisms. The largest sum of squares over all orders is counted.

    Args:
        rows: Rows of the client, at least 1.
        batch: Rows of a step, at least 1.
        drawn: Rows drawn in the round: steps times batch, or epochs times rows. At least 1.

    Returns:
        The number k: the round is at most k releases for each row, for `Account.epsilon`.

    Raises:
        ValueError: For anything but integers of at least 1.

    Example:
        >>> from fedjax_llm.privacy import releases_of_row
        >>> releases_of_row(100, batch=8, drawn=64)  # within the first pass
        1
        >>> releases_of_row(12, batch=4, drawn=24)  # two passes, whose border no step crosses
        2
        >>> releases_of_row(6, batch=4, drawn=12)  # the second of three steps may see a row twice
        4

    """
    for name, value in (("rows", rows), ("batch", batch), ("drawn", drawn)):
        check_integer(value, who="releases_of_row", name=name, at_least=1)
    passes = -(-drawn // rows)
    first = [number * rows // batch for number in range(passes)]
    last = [(min((number + 1) * rows, drawn) - 1) // batch for number in range(passes)]
    most = [0] * (passes + 1)  # of the first so many passes
    for end in range(1, passes + 1):
        start = end - 1
        while start >= 0 and first[end - 1] <= last[start]:  # these may share a step
            most[end] = max(most[end], most[start] + (end - start) ** 2)
            start -= 1
    return most[passes]
