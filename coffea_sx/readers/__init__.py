"""Read the columns of a delivered file."""
