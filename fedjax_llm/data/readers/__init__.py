"""Readers: text by client, from packages and files."""
