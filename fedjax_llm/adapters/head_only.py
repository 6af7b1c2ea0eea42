"""Training of a classifier's head alone."""

from typing import Any

from fedjax_compression.checks import check_kind
from flax import nnx
from jaxtyping import Array, Key

from ..models import Classifier
from .contract import Adapter


def head_only() -> Adapter:
    """Train only the head of `classification`, on a frozen encoder.

    Returns:
        An adapter that adds nothing and trains nothing; `classification` adds the head to what is
        trained.

    Raises:
        TypeError: When attached, if the model is not a `Classifier`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import classification
        >>> from fedjax_llm.adapters import head_only
        >>> from fedjax_llm.models import EncoderConfig
        >>> config = EncoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = classification(config, labels=4, key=jr.key(0), adapter=head_only())
        >>> jax.tree.map(jnp.shape, task.params)
        {'classifier': {'bias': (4,), 'kernel': (8, 4)}}

    """

    def attach(key: Key[Array, ""], model: Any) -> None:
        expected, remedy = "a Classifier", "classification(...) makes one"
        who, name = "head_only", "model"
        check_kind(model, Classifier, who=who, name=name, expected=expected, remedy=remedy)

    return Adapter(attach, trainable=nnx.Nothing())
