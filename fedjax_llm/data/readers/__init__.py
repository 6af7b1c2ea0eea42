"""Readers: records of files, tables and installed packages, by client."""
