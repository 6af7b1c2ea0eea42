"""Do our messages reproduce published numbers of bytes?

    python -m experiments.published_bytes        under a minute on one core

Each figure is the length of the messages that an algorithm and a codec make for a model's
configuration, computed from shapes alone (`ledger.messages`); no model is allocated. Entropy-coded
messages have no length by shape: DeMo's coefficients are coded for four million entries.

Result: all are reproduced. FlowerTune's GB are GiB, in both directions, of float32 adapters.
NVFLARE's MB are MiB, of a Llama with an untied head; its scales are longer than ours. DeMo's factor
85 is 12 bytes per coefficient against bfloat16; two bytes and an entropy-coded position take 3.6
times less. Streaming DiLoCo's factor 400 is 16 bits against 4, without block scales. FedKSeed's 18
kB use seeds of four bytes, where an index into the pool takes 12 bits. FedPrompt's hundredth of a
percent is rounded, and for models of T5's and RoBERTa's width; 20 tokens are our choice.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from fedjax_compression import Compressor, codec, wire
from jaxtyping import Array, Float, UInt32
from rich.console import Console
from rich.table import Table

from fedjax_llm import DecoderConfig, fed_avg, language_model, ledger, lora
from fedjax_llm.adapters import prompt_tuning
from fedjax_llm.algorithms import demo, fed_kseed, fed_sgd, streaming_diloco

MISTRAL_7B = DecoderConfig(
    vocab_size=32768,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)
LLAMA_3B = DecoderConfig(
    vocab_size=128256,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
)
LLAMA_1B = DecoderConfig(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=False,
)
CHINCHILLA_1B = DecoderConfig(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=24,
    num_attention_heads=16,
    num_key_value_heads=16,
    mlp="plain",
)
GPT2 = DecoderConfig(
    vocab_size=50257,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    num_key_value_heads=12,
    model_type="gpt2",
    position_embeddings="learned",
    max_position_embeddings=1024,
    norm="layer",
    mlp="plain",
    attention_bias="all",
    mlp_bias=True,
    fused_qkv=True,
)


class Steps(NamedTuple):
    """The fields of a batch that an algorithm reads."""

    mask: np.ndarray


class Row(NamedTuple):
    """One published figure and ours."""

    what: str
    unit: str
    published: float
    ours: float


def shapes(config, *, dtype=jnp.float32, adapter=None):
    """Shapes of the trainable parameters."""
    params = jax.eval_shape(lambda key: language_model(config, key=key, adapter=adapter)[0], KEY)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)


KEY = jr.key(0)
ONE_STEP = Steps(np.ones((1, 1), bool))


def loss(params, frozen, batch):
    """A placeholder loss: messages do not depend on it."""
    return sum((leaf.astype(jnp.float32) ** 2).sum() for leaf in jax.tree.leaves(params))


def lengths(algorithm, params):
    """Bytes of a downlink and of an uplink message."""
    return [wire.nbytes(one) for one in ledger.messages(algorithm, params, ONE_STEP)]


def flower_tune(config, *, rounds, clients):
    params = shapes(config, adapter=lora(rank=32, targets="q_proj,v_proj"))
    both = sum(lengths(fed_avg(loss, params, client_optimizer=optax.sgd(0.1)), params))
    return rounds * clients * both / 2**30


def nvflare():
    """Bytes of one uplink: of its values, and of their scales."""
    full, half = shapes(LLAMA_1B), shapes(LLAMA_1B, dtype=jnp.bfloat16)
    for params, text, values, scales in (
        (full, "identity()", 5716.26, 0.0),
        (half, "identity()", 2858.13, 0.0),
        (full, "blockwise_int(bits=8, block=4096)", 1429.06, 1.54),
        (full, "nf4(block=64)", 714.53, 89.33),
    ):
        algorithm = fed_avg(loss, params, client_optimizer=optax.sgd(0.1), uplink=codec(text))
        _, up = ledger.messages(algorithm, params, ONE_STEP)
        coded = [x for x in jax.tree.leaves(up) if x.dtype == jnp.uint8 or scales == 0]
        own = wire.nbytes(coded) - wire.HEADER_BYTES
        name = f"Llama-3.2-1B, {params['embedding'].dtype}, {text}"
        yield Row(f"{name}: values", "MiB", values, own / 2**20)
        if scales:
            rest = wire.nbytes(up) - wire.HEADER_BYTES - own
            yield Row(f"{name}: scales", "MiB", scales, rest / 2**20)


class Coefficients(NamedTuple):
    """The k largest coefficients of each chunk, as DeMo's public code sends them."""

    indices: UInt32[Array, "chunks k 2"]
    """Of 64 bits."""
    values: Float[Array, "chunks k"]


def as_public_code_sends(*, k: int, chunk: int) -> Compressor:
    """Of each chunk k coefficients, 12 bytes each. The transform changes no length: left out."""

    def encode(key, update, state):
        flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(update)])
        rows = jnp.pad(flat, (0, -flat.size % chunk)).reshape(-1, chunk).astype(jnp.float32)
        _, places = jax.lax.top_k(jnp.abs(rows), k)
        values = jnp.take_along_axis(rows, places, axis=1)
        low = places.astype(jnp.uint32)
        return Coefficients(jnp.stack([low, jnp.zeros_like(low)], axis=-1), values), state

    def decode(sent, like):
        chunks = jnp.arange(len(sent.values))[:, None]
        rows = jnp.zeros((len(sent.values), chunk))
        flat = rows.at[chunks, sent.indices[..., 0]].set(sent.values).reshape(-1)
        leaves, treedef = jax.tree.flatten(like)
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = [flat[end - leaf.size : end] for leaf, end in zip(leaves, ends, strict=True)]
        parts = [p.reshape(x.shape).astype(x.dtype) for p, x in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(treedef, parts)

    return Compressor(lambda like: (), encode, decode)


def data_parallel(params):
    """Bytes of a step of one worker."""
    return lengths(fed_sgd(loss, params, server_optimizer=optax.sgd(0.1)), params)[1]


def demo_rows():
    params = shapes(CHINCHILLA_1B, dtype=jnp.bfloat16)
    public = fed_sgd(
        loss,
        params,
        server_optimizer=optax.sgd(0.1),
        uplink=as_public_code_sends(k=8, chunk=4096),
    )
    fewer = data_parallel(params) / lengths(public, params)[1]
    yield Row("DeMo, 8 of 4,096, 12 bytes each, against bfloat16 steps", "times", 85.33, fewer)
    some = {"kernel": jr.normal(KEY, (2**11, 2**11)).astype(jnp.bfloat16)}
    ours = demo(loss, some, rate=0.1, fraction=2 / 1024, block=1024)
    own = ours.client_init(some)
    sent, _ = ours.broadcast(KEY, ours.init(KEY, some))
    up, _, _ = jax.jit(ours.client_update)(KEY, (), sent, own, ONE_STEP)
    fewer = data_parallel(some) / len(wire.dumps(up))
    yield Row("the same, 2 of 1,024, two bytes and a coded position", "times", 85.33, fewer)


def streaming_rows():
    """H = 100 inner steps between two synchronisations of a fragment of three layers."""
    params = shapes(CHINCHILLA_1B, dtype=jnp.bfloat16)
    fragments = CHINCHILLA_1B.num_hidden_layers // 3
    for text in ("stochastic_quantize(bits=4)", "mxfp4()"):
        algorithm = streaming_diloco(
            loss,
            params,
            client_optimizer=optax.adamw(0.1),
            fragments_of=fragments,
            uplink=codec(text),
        )
        all_fragments = fragments * lengths(algorithm, params)[1]
        fewer = 100 * data_parallel(params) / all_fragments
        yield Row(f"Streaming DiLoCo, H = 100, {text}", "times", 400.0, fewer)


def kseed():
    """Of one client and round, with 200 local steps."""
    some = {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)}  # of whatever size: none travels
    algorithm = fed_kseed(loss, some, client_optimizer=optax.sgd(0.1), seeds=4096)
    both = sum(map(wire.nbytes, ledger.messages(algorithm, some, Steps(np.ones((200, 1), bool)))))
    yield Row("FedKSeed, 4,096 seeds and 200 steps, both ways, below", "bytes", 18_000, both)


def fed_prompt():
    """Of one message up, with 20 tokens before a model of 124 M."""
    prompt, whole = (
        lengths(fed_avg(loss, params, client_optimizer=optax.sgd(0.1)), params)[1]
        for params in (shapes(GPT2, adapter=prompt_tuning(tokens=20)), shapes(GPT2))
    )
    yield Row("FedPrompt, 20 tokens of 768, of all parameters", "%", 0.01, 100 * prompt / whole)


def rows():
    for name, config, published in (
        ("Mistral-7B-v0.3", MISTRAL_7B, 40.7),
        ("Llama-3.2-3B", LLAMA_3B, 27.4),
    ):
        ours = flower_tune(config, rounds=200, clients=2)
        yield Row(f"FlowerTune, {name}, LoRA of rank 32 on q and v", "GiB", published, ours)
    yield from nvflare()
    yield from demo_rows()
    yield from streaming_rows()
    yield from kseed()
    yield from fed_prompt()


def main() -> None:
    table = Table("what", "unit", "published", "ours")
    for row in rows():
        table.add_row(row.what, row.unit, f"{row.published:.2f}", f"{row.ours:.3f}")
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


if __name__ == "__main__":
    main()
