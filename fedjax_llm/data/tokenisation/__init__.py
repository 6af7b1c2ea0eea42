"""Tokenisation: texts and chats to tokens, windows and batches."""
