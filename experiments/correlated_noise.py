"""Which correlation of noise over rounds leaves the least of it in the model?

    python experiments/correlated_noise.py        some three minutes on one core

Computes in float64, without a run: the deviation of the sum of all rounds' noise at one epsilon, in
parts of that of independent noise. A client takes part as often as rounds that are `apart` allow;
sensitivity is the exact one of Toeplitz matrices with decreasing coefficients (arXiv:2405.13763,
theorem 2). Columns:

- cut: `apart` bands, with the coefficients of the square root of the prefix sum
- ours: those of `banded_dp_fed_avg(bands=apart)`
- banded, decreasing: the least that a minimizer finds over as many bands, over all coefficients
- BLT: the same over buffered linear Toeplitz matrices (arXiv:2404.16706) with 1 to 4 buffers, whose
  sensitivity counts that rounds of a client overlap (arXiv:2408.08868)

Result: ours, which have one free number, leave at most .2 % more noise than the least over banded
matrices, the cut square root up to 9.7 % more than ours, buffers as much as ours (2 apart, or one
round a client) or 1 to 4.4 % more. More than 3 buffers do not help. Where `apart` divides the
rounds, no decreasing coefficients leave .2 % less than ours; where it does not (50 and 4, 50 and
20), accounting counts a client's last round as a whole one, which costs bands 1 to 3 %, and far
more at 21 and 20, where buffers win. The last line has a published setting: jax_privacy 2.0.0 has
9.451 with 3 buffers, and 9.172 with bands.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from scipy.optimize import minimize

from fedjax_llm.aggregators.banded_dp_fed_avg import least_noise_coefficients

jax.config.update("jax_enable_x64", True)

SETTINGS = [(rounds, apart) for rounds in (20, 50, 100, 200) for apart in (2, 4, 5, 10, 20)]
BUFFERS = (1, 2, 3, 4)


def model_noise(coefficients: jax.Array, apart: int, *, banded: bool) -> jax.Array:
    """Deviation of the sum of all rounds' noise, for a noise multiplier and a clip of 1.

    Columns of a banded matrix do not overlap, and each is counted as a whole, as in accounting.
    """
    rounds = len(coefficients)
    columns = jnp.pad(coefficients, (0, -rounds % apart)).reshape(-1, apart).cumsum(axis=0)
    if banded:
        sensitivity = jnp.sqrt(len(columns)) * jnp.linalg.norm(coefficients)
    else:
        sensitivity = jnp.linalg.norm(columns.reshape(-1)[:rounds])
    lag = jnp.arange(rounds)[:, None] - jnp.arange(rounds)
    matrix = jnp.where(lag >= 0, coefficients[lag.clip(0)], 0)
    return sensitivity * jnp.linalg.norm(solve_triangular(matrix, jnp.ones(rounds), lower=True))


def square_root(bands: int) -> np.ndarray:
    return np.cumprod(np.concatenate([[1.0], 1 - 0.5 / np.arange(1, bands)]))


def decreasing(ratios: jax.Array) -> jax.Array:
    """Coefficients from the logits of their ratios."""
    return jnp.cumprod(jnp.concatenate([jnp.ones(1), jax.nn.sigmoid(ratios)]))


def buffered(free: jax.Array, rounds: int) -> jax.Array:
    """1, sum w, sum w t, sum w t^2, ...: decreasing, as the weights w have a sum of at most 1."""
    buffers = len(free) // 2
    decays = jax.nn.sigmoid(free[:buffers])
    weights = jax.nn.sigmoid(free[buffers]) * jax.nn.softmax(free[buffers + 1 :])
    return jnp.append(1.0, (weights * decays ** jnp.arange(rounds - 1)[:, None]).sum(axis=1))


def least(noise: Callable[[jax.Array], jax.Array], start: np.ndarray) -> float:
    """The least noise over what its argument may be."""
    value = jax.jit(jax.value_and_grad(lambda free: jnp.log(noise(free))))

    def at(free: np.ndarray) -> tuple[float, np.ndarray]:
        log, slope = value(free)
        return float(log), np.asarray(slope)

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-11, "gtol": 1e-7}
    return float(np.exp(minimize(at, start, jac=True, method="L-BFGS-B", options=options).fun))


def least_of_buffers(rounds: int, apart: int, buffers: int) -> float:
    """From two starts, of which one is at random."""
    gaps = np.geomspace(1 / rounds, 0.6, buffers) if buffers > 1 else np.array([1 / apart])
    start = np.concatenate([np.log(1 / gaps - 1), [0.0], np.linspace(-1, 1, buffers)])
    moved = start + np.random.default_rng(1).normal(size=len(start))

    def noise(free: jax.Array) -> jax.Array:
        return model_noise(buffered(free, rounds), apart, banded=False)

    return min(least(noise, each) for each in (start, moved))


def row(rounds: int, apart: int) -> list[float]:
    """Noise by kind of matrix, in parts of that of independent noise."""

    def of_bands(coefficients: jax.Array | np.ndarray) -> jax.Array:
        padded = jnp.pad(jnp.asarray(coefficients), (0, rounds - len(coefficients)))
        return model_noise(padded, apart, banded=True)

    within, whole = square_root(apart), square_root(rounds)
    logits = [np.log(each[1:] / (each[:-1] - each[1:])) for each in (within, whole)]
    noises = [
        float(of_bands(within)),
        float(of_bands(least_noise_coefficients(apart, rounds))),
        least(lambda free: of_bands(decreasing(free)), logits[0]),
        least(
            lambda free: model_noise(decreasing(free), apart, banded=False), 0.9 * logits[1] - 0.05
        ),
        *(least_of_buffers(rounds, apart, buffers) for buffers in BUFFERS),
    ]
    return [each / float(of_bands(np.ones(1))) for each in noises]


def main() -> None:
    names = ("cut", "ours", "banded", "decreasing", *(f"BLT {buffers}" for buffers in BUFFERS))
    print("| " + " | ".join(("rounds", "apart", *names)) + " |")
    print("|---" * (len(names) + 2) + "|")
    for rounds, apart in SETTINGS:
        cells = " | ".join(f"{each:.4f}" for each in row(rounds, apart))
        print(f"| {rounds} | {apart} | {cells} |", flush=True)
    coefficients = least_noise_coefficients(400, 2000)
    ours = model_noise(jnp.pad(jnp.asarray(coefficients), (0, 1600)), 400, banded=True)
    print(
        f"2000 rounds, 400 apart: ours {ours:.3f}, 3 buffers {least_of_buffers(2000, 400, 3):.3f}"
    )


if __name__ == "__main__":
    main()
