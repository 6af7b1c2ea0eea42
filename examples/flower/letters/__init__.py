"""A small language model, trained by three nodes that keep their texts to themselves."""
