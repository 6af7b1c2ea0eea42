"""Tokenisation: text by client to tokens, windows and batches."""
