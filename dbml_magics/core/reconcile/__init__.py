"""Comparing two workspaces run by run, making one like the other, bringing older runs over."""
