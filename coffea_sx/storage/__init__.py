"""Bytes of delivered files: how they are fetched, and the file system that uproot reads."""
