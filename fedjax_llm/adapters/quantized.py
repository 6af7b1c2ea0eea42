"""Adapters on a frozen base with quantised kernels (QLoRA, Dettmers et al. 2023,
arXiv:2305.14314).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from ..models.packed import Packed
from .contract import Adapter, check_adapter
from .targets import projections


def nf4_base(adapter: Adapter) -> Adapter:
    """Store the kernels of all blocks in NF4, 4.25 bits per entry, and train an adapter on them.

    Kernels are rounded once, when the adapter is attached, and unpacked one layer at a time in the
    forward and the backward pass. Embeddings, norms, biases and the head are not quantised. The
    error per entry is that of `fedjax_compression.nf4`. Departure from the paper: block scales are
    bfloat16 and not quantised again.

    Args:
        adapter: The adapter to train, which must not train kernels.

    Returns:
        The adapter with a quantised base.

    Raises:
        TypeError: If `adapter` is not an `Adapter`.
        ValueError: When attached, if the adapter trains kernels, as `full()` does.

    Example:
        >>> import jax, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import lora, nf4_base
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=nf4_base(lora(rank=2)))
        >>> packed = task.frozen["blocks"]["attention"]["q_proj"]["kernel"]  # 2 layers, 8 x 8
        >>> sum(leaf.nbytes for leaf in jax.tree.leaves(packed)), 2 * 8 * 8 * 4.25 / 8
        (68, 68.0)

    """
    return _packed(adapter, bits=4, who="nf4_base")


def int8_base(adapter: Adapter) -> Adapter:
    """Store the kernels of all blocks as int8, 8.25 bits per entry, and train an adapter on them.

    As `nf4_base` with other codes: the error of an entry is at most 1/254 of the largest magnitude
    in its block of 64, to a relative 1/256 from the rounding of the block's scale to bfloat16.

    Args:
        adapter: The adapter to train, which must not train kernels.

    Returns:
        The adapter with a quantised base.

    Raises:
        TypeError: If `adapter` is not an `Adapter`.
        ValueError: When attached, if the adapter trains kernels, as `full()` does.

    Example:
        >>> import jax, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import int8_base, lora
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=int8_base(lora(rank=2)))
        >>> packed = task.frozen["blocks"]["attention"]["q_proj"]["kernel"]  # 2 layers, 8 x 8
        >>> sum(leaf.nbytes for leaf in jax.tree.leaves(packed)), 2 * 8 * 8 * 8.25 / 8
        (132, 132.0)

    """
    return _packed(adapter, bits=8, who="int8_base")


def _packed(adapter: Adapter, *, bits: int, who: str) -> Adapter:
    check_adapter(adapter, who=who)

    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        trained = nnx.state(model, adapter.trainable)
        paths = (path for path, _ in jax.tree.leaves_with_path(trained))
        if any("kernel" in jax.tree_util.keystr(path) for path in paths):
            raise ValueError(
                f"{who}: adapter: expected one that freezes kernels, such as lora(rank=8), got one "
                "that trains them."
            )
        for projection in projections(model, who=who):
            kernel = projection.module.weights(jnp.float32)
            projection.module.kernel = Packed(kernel, bits=bits)
        adapter.attach(key, model)

    return adapter._replace(attach=attach)
