"""Workspaces: how to reach one with its own credentials, what it takes, what it calls things."""
