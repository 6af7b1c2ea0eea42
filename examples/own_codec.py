"""A codec of one's own: `python own_codec.py` checks it, `--plugin own_codec` puts it in runs."""

import jax
import jax.numpy as jnp
from fedjax_compression import Compressor, register
from fedjax_compression.ops.flat import check_floating
from fedjax_compression.testing import check_compressor


def scaled_sign() -> Compressor:
    """Send the sign of each entry in one bit, and the mean size of each tensor's entries."""

    def encode_leaf(x):
        x = x.astype(jnp.float32).reshape(-1)
        return {"signs": jnp.packbits(x >= 0), "size": jnp.abs(x).mean()}

    def encode(key, update, state):
        check_floating(update, who="scaled_sign")
        return jax.tree.map(encode_leaf, update), state

    def decode_leaf(like, sent):
        signs = 2.0 * jnp.unpackbits(sent["signs"], count=like.size) - 1
        return (signs * sent["size"]).reshape(like.shape).astype(like.dtype)

    def decode(payload, like):
        return jax.tree.map(decode_leaf, like, payload)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)


if __name__ == "__main__":
    check_compressor(scaled_sign(), {"kernel": jnp.linspace(-1, 1, 77).reshape(7, 11)})
    print("scaled_sign keeps the contract")
else:  # imported as a plugin
    register("scaled_sign", scaled_sign)
