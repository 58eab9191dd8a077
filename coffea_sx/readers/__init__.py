"""Readers of delivered files: the columns of a ROOT or Parquet file, and partitions of events."""
