"""The transform on the server: submitting it, watching it, and knowing what became of each file."""
