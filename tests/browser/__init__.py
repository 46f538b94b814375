"""Tests in a real browser: JupyterLab and Notebook 7, the extension as a user sees it."""
