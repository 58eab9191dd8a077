"""The demo: a small but complete analysis with sample files, a query, a processor and a plot."""
