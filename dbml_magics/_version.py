"""The version, read by the build backend and by ``dbml_magics.__version__``."""

__version__ = "0.1.0"
