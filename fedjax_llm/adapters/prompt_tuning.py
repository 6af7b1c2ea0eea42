"""Trained embeddings before the text (Lester et al. 2021, arXiv:2104.08691)."""

import jax.random as jr
from jaxtyping import Array, Key

from ..models import Decoder
from .contract import Adapter, Added
from .prefix_tuning import check_decoder, check_tokens


def prompt_tuning(*, tokens: int) -> Adapter:
    """Prepend `tokens` trained embeddings to each row, and freeze the model.

    The embeddings start as those of randomly drawn vocabulary tokens, the paper's "sampled
    vocabulary", so the initial model computes another function than the plain one. They occupy the
    first positions, and the text follows after them. All segments of a packed row attend to them;
    layers with a sliding window lose sight of them as of other tokens. They get no logits. Where a
    model scales the embeddings of tokens (Gemma), they are read as they are, as in PEFT.
    Attention costs as much as for rows that are longer by `tokens`.

    Args:
        tokens: Number of embeddings, at least 1.

    Returns:
        The adapter, for a `Decoder`. `merge_adapter` refuses it; `export_adapter` writes it.

    Raises:
        ValueError: If `tokens` is not an integer of at least 1.
        TypeError: When attached, if the model is not a `Decoder`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import prompt_tuning
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=prompt_tuning(tokens=3))
        >>> jax.tree.map(jnp.shape, task.params)
        {'prompt': (3, 8)}

    """
    check_tokens(tokens, who="prompt_tuning")

    def attach(key: Key[Array, ""], model: Decoder) -> None:
        check_decoder(model, who="prompt_tuning")
        table = model.embedding[...]
        drawn = table[jr.randint(key, (tokens,), 0, len(table))]
        model.prompt = Added(drawn * model.config.embedding_scale)

    return Adapter(attach, Added)
