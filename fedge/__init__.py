"""Fedge's public face: its version and the one command ``fedge``. It holds no logic of its own."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("fedge")
