"""Scoring: a model over a table, a path, a DataFrame or a stream, on Spark or in this process."""
