"""The work of the comparison, as our library makes it: model, texts, and each round's batches."""

import jax
import jax.random as jr
import numpy as np
from exchange import KERNELS, Work
from jax_model import loss
from jaxtyping import PyTree

from fedjax_llm import language_model
from fedjax_llm.bench.works import WORKS
from fedjax_llm.data import Batching, Corpus, cohort_batches
from fedjax_llm.simulation.loop.cohorts import draw

SIZES = WORKS["small"]
BATCHING = Batching(seq=SIZES.seq, batch=SIZES.batch, steps=SIZES.steps)
RATE, SEED = 0.1, 0


def corpus() -> Corpus:
    """Texts of made-up words, some far more frequent than others; a client has a round's rows."""
    random = np.random.default_rng(0)
    letters = random.choice(list(b"abcdefghijklmnopqrstuvwxyz"), (256, 8)).astype(np.uint8)
    words = [bytes(w[:n]) for w, n in zip(letters, random.integers(2, 9, 256), strict=True)]
    each = SIZES.steps * SIZES.batch * SIZES.seq + 1
    frequency = 1 / np.arange(1, 257)
    texts = [
        b" ".join(random.choice(words, each, p=frequency / frequency.sum()))[:each]
        for _ in range(SIZES.clients)
    ]
    return Corpus(
        tuple(f"{client:03}" for client in range(SIZES.clients)),
        np.frombuffer(b"".join(texts), np.uint8).astype(np.int32),
        each * np.arange(SIZES.clients + 1),
        SIZES.config.vocab_size,
    )


def work(rounds: int) -> Work:
    """The initial parameters, and the batches that `simulate` draws with `SEED`."""
    texts, config = corpus(), SIZES.config

    def rows(number: int) -> np.ndarray:
        cohort, keys = draw(jr.fold_in(jr.key(SEED), number), SIZES.clients, SIZES.clients)
        batch = cohort_batches(texts, BATCHING, cohort.tolist(), keys)
        return np.concatenate([batch.tokens, batch.targets[..., -1:]], -1)

    return Work(
        flat(language_model(config, key=jr.key(0)).params),
        np.stack([rows(number) for number in range(1, rounds + 1)]).astype(np.uint8),
        config.num_attention_heads,
        config.rope_theta,
        config.rms_norm_eps,
        RATE,
    )


def flat(params: PyTree) -> dict[str, np.ndarray]:
    """Our parameters by the names of `Work.params`."""
    blocks = params["blocks"]
    products = blocks["attention"] | blocks["mlp"]
    named = {name: products[f"{name}_proj"]["kernel"] for name in KERNELS}
    named |= {
        "before_attention": blocks["input_norm"]["scale"],
        "before_mlp": blocks["post_attention_norm"]["scale"],
        "embedding": params["embedding"],
        "norm": params["norm"]["scale"],
    }
    return {name: np.asarray(value) for name, value in named.items()}


def nested(params: dict[str, np.ndarray]) -> PyTree:
    """The inverse of `flat`."""

    def products(*names: str) -> PyTree:
        return {f"{name}_proj": {"kernel": params[name]} for name in names}

    tree = {
        "blocks": {
            "attention": products("q", "k", "v", "o"),
            "mlp": products("gate", "up", "down"),
            "input_norm": {"scale": params["before_attention"]},
            "post_attention_norm": {"scale": params["before_mlp"]},
        },
        "embedding": params["embedding"],
        "norm": {"scale": params["norm"]},
    }
    return jax.tree.map(jax.numpy.asarray, tree)


def final_loss(params: dict[str, np.ndarray], work: Work) -> float:
    """The mean loss of parameters on the rows of a work's last round, in nats per byte."""
    batches = work.rows[-1].reshape(-1, *work.rows.shape[-2:])
    sizes = {"heads": work.heads, "theta": work.theta, "epsilon": work.epsilon}
    arrays = jax.tree.map(jax.numpy.asarray, params)
    return float(jax.lax.map(lambda rows: loss(arrays, rows, **sizes), batches).mean())
