"""Databricks and Azure ML together, each a stand-in that the real client libraries talk to."""
