"""Graph of the events: one task waits for an input file, the next one reads its result."""
