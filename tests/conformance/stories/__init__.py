"""The stories, a module a group."""
