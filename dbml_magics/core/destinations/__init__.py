"""Adapters of workspaces: connection and credentials, limits, names."""
