"""Outcomes of a transform: polled from the server, kept in one store, where tasks wait."""
