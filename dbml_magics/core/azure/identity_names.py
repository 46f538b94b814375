"""The ways to sign in by name, for the grammar and for files; imports nothing."""

METHODS = (
    "default",
    "cli",
    "interactive",
    "device-code",
    "service-principal",
    "managed-identity",
    "databricks",
    "job-token",
)
SETTINGS = ("secret-scope", "service-credential")
"""What a sign-in may need beside its method: names in Databricks, never a secret itself."""
