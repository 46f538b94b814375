"""Real MLflow servers, a proxy that breaks things, and readers that know nothing of the package."""
