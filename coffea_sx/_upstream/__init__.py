"""Private API of other packages: a module for each, and a canary test for each function."""
