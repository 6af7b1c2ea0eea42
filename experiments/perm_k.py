"""Does PermK (Szlendak et al. 2021, arXiv:2110.03300) lose less than EDEN at the same bytes?

    python experiments/perm_k.py

PermK deals the coordinates out: one permutation for the round, and client i of n sends its n-th of
the coordinates, which the server multiplies by n. Nothing is sent twice, and equal clients lose
nothing. Here it acts on the updates of 32 clients in three rounds of the default run, in NumPy, as
an uplink does not know a client's place in its cohort. A value is a float32, or a bfloat16.

Result, ‖error of the mean‖² / ‖mean‖² in rounds 2, 4 and 8, two cores of an AMD EPYC, jax 0.10.2:
PermK .474, .734 and 1.58, with float32 at one bit for each entry as with bfloat16 at half a bit;
`eden(bits=1)` .0264, .0309, .0459; `eden(bits=0.5)` .0985, .115, .172. PermK loses 18 to 34 times
as much at one bit and 5 to 9 times at half a bit, as clients of a language model differ too much
for it. So there is no PermK among the codecs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression import codec

from fedjax_llm.bench.cohorts import CLIENTS, ROUNDS, cohorts, mean_error

DRAWS = 8


def perm_k_error(rows: np.ndarray, dtype: type) -> float:
    """‖error of the mean‖² / ‖mean‖² of PermK, over eight permutations, in float64."""
    clients, entries = rows.shape
    mean = rows.mean(axis=0)
    values = np.asarray(jnp.asarray(rows, dtype), np.float64)
    slots = -(-entries // clients) * clients  # padded, so that it divides
    errors = []
    for draw in range(DRAWS):
        client_of = np.empty(slots, int)
        client_of[np.random.default_rng(draw).permutation(slots)] = np.arange(slots) % clients
        decoded = clients * values[client_of[:entries], np.arange(entries)] / clients
        errors.append(((decoded - mean) ** 2).sum() / (mean**2).sum())
    return float(np.mean(errors))


def main() -> None:
    for cohort in cohorts(ROUNDS, seed=0):
        leaves = jax.tree.leaves(cohort.updates)
        rows = np.concatenate([np.asarray(x, np.float64).reshape(CLIENTS, -1) for x in leaves], 1)
        for dtype, bits in ((jnp.float32, 1), (jnp.bfloat16, 0.5)):
            eden = mean_error(codec(f"eden(bits={bits})"), cohort)["error_of_mean"]
            dealt = perm_k_error(rows, dtype)
            print(f"round {cohort.round}, {bits} bits an entry: PermK {dealt:.3g}, eden {eden:.3g}")


if __name__ == "__main__":
    main()
