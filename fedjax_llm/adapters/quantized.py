"""A frozen base in codes of a few bits under an adapter (QLoRA, Dettmers et al. 2023,
arXiv:2305.14314).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from ..models.packed import Packed
from .contract import Adapter
from .targets import products


def nf4_base(adapter: Adapter) -> Adapter:
    """Hold the kernels of all blocks in NF4, 4.25 bits an entry, and train an adapter on them.

    The kernels are rounded once and unpacked layer by layer, forward and back; embeddings, norms,
    biases and the head stay as they are. Entries err as `fedjax_compression.nf4` says. Departure:
    scales are bfloat16, and not quantised once more.
    Raises `ValueError` for an adapter that trains kernels, such as `full()`.
    """
    return _packed(adapter, bits=4, who="nf4_base")


def int8_base(adapter: Adapter) -> Adapter:
    """Hold the kernels of all blocks as int8, 8.25 bits an entry, and train an adapter on them.

    As `nf4_base`; entries err by at most 1/254 of their block of 64's largest, to 1 part in 256.
    """
    return _packed(adapter, bits=8, who="int8_base")


def _packed(adapter: Adapter, *, bits: int, who: str) -> Adapter:
    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        trained = nnx.state(model, adapter.trainable)
        paths = (path for path, _ in jax.tree.leaves_with_path(trained))
        if any("kernel" in jax.tree_util.keystr(path) for path in paths):
            raise ValueError(
                f"{who}: expected an adapter that leaves kernels as they are, such as "
                "lora(rank=8), got one that trains them."
            )
        for product in products(model):
            kernel = product.module.weights(jnp.float32)
            product.module.kernel = Packed(kernel, bits=bits)
        adapter.attach(key, model)

    return adapter._replace(attach=attach)
