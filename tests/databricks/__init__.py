"""Databricks: the stand-in under MLflow's own client, and the link in front of it."""
