"""Robust rules in float64, written from their definitions: rows `[n, d]` to a vector."""

import itertools

import numpy as np


def krum_order(x, f):
    """Row numbers by Krum's score; of equals, the first."""
    n = len(x)
    scores = []
    for i in range(n):
        squares = sorted(((x[i] - x[j]) ** 2).sum() for j in range(n) if j != i)
        scores.append(sum(squares[: n - f - 2]))
    return sorted(range(n), key=lambda i: scores[i])


def krum(x, f):
    return x[krum_order(x, f)[0]]


def multi_krum(x, f, m):
    return x[krum_order(x, f)[:m]].mean(0)


def trimmed_mean(x, f):
    return np.sort(x, 0)[f : len(x) - f].mean(0)


def bulyan(x, f):
    left, picked = list(range(len(x))), []
    for _ in range(len(x) - 2 * f):
        rest = x[left]
        neighbours = max(len(left) - f - 2, 1)
        scores = [
            sum(sorted(((a - b) ** 2).sum() for j, b in enumerate(rest) if j != i)[:neighbours])
            for i, a in enumerate(rest)
        ]
        picked.append(left.pop(int(np.argmin(scores))))
    chosen = x[picked]
    result = []
    for column in chosen.T:
        centre = np.median(column)
        nearest = sorted(column, key=lambda value: (abs(value - centre), value))
        result.append(np.mean(nearest[: len(x) - 4 * f]))
    return np.array(result)


def geometric_median(x, iterations=10_000):
    z = np.median(x, 0)
    for _ in range(iterations):
        weights = 1 / np.maximum(np.linalg.norm(x - z, axis=1), 1e-12)
        z = weights @ x / weights.sum()
    return z


def centered_clipping(x, v, radius, iterations):
    for _ in range(iterations):
        steps = [(row - v) * min(1, radius / max(np.linalg.norm(row - v), 1e-300)) for row in x]
        v = v + np.mean(steps, 0)
    return v


def mixed(x, f):
    n = len(x)
    rows = []
    for a in x:
        nearest = sorted(range(n), key=lambda j: ((a - x[j]) ** 2).sum())[: n - f]
        rows.append(x[nearest].mean(0))
    return np.array(rows)


def fools_gold(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    n, cs = len(x), unit @ unit.T
    np.fill_diagonal(cs, -np.inf)
    v = cs.max(1)
    for i, j in itertools.permutations(range(n), 2):
        if v[j] > v[i]:
            cs[i, j] *= v[i] / v[j]
    a = np.clip(1 - cs.max(1), 0, 1)
    a = np.minimum(a / a.max(), 0.99)
    with np.errstate(divide="ignore"):
        a = np.clip(np.log(a / (1 - a)) + 0.5, 0, 1)
    return a @ x / a.sum()


def flame(x):
    """By agglomeration: join the two nearest components until one is a majority."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    parts = [{i} for i in range(len(x))]
    while max(map(len, parts)) <= len(x) // 2:
        a, b = min(
            itertools.combinations(parts, 2),
            key=lambda two: min(distance[i, j] for i in two[0] for j in two[1]),
        )
        parts = [part for part in parts if part not in (a, b)] + [a | b]
    kept = sorted(max(parts, key=len))
    lengths = np.linalg.norm(x, axis=1)
    limit = np.median(lengths)
    return np.mean([x[i] * min(1, limit / lengths[i]) for i in kept], 0)


def dnc(x, f):
    centred = x - x.mean(0)
    top = np.linalg.svd(centred, full_matrices=False)[2][0]
    kept = np.argsort((centred @ top) ** 2, kind="stable")[: len(x) - f]
    return x[sorted(kept)].mean(0)
