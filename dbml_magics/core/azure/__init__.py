"""Azure beside MLflow: clouds, sign-in, the resource manager, permissions. Nothing heavy is imported here."""
