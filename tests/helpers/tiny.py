"""A decoder small enough to compile in a second."""

from fedjax_llm import DecoderConfig

TINY = DecoderConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
)
