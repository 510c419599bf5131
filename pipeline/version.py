"""The version of imagebeam, as installed; setup.py declares it."""

import importlib.metadata
from typing import Final

__version__: Final[str] = importlib.metadata.version("imagebeam")
