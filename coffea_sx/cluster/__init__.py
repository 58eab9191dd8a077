"""Outcomes on their way to the workers of a dask cluster."""
