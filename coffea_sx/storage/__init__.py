"""Bytes of results: requests to the store, and a file system for everything that reads files."""
