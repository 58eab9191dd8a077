"""Outcomes of a transform: asking the server for them, keeping them, and waiting for them."""
