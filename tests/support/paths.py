"""Directories that tests read."""

from pathlib import Path
from typing import Final

#: The root of the repository.
ROOT: Final = Path(__file__).parents[2]
#: Photographs of the sample dataset.
PHOTO_DIRECTORY: Final = ROOT / "emulators" / "sample_data" / "photos"
#: Settings and data files of the product.
TASK_DATA: Final = ROOT / "transforms" / "tasks" / "data"
#: Expected requests and statements, byte by byte.
GOLDEN: Final = ROOT / "tests" / "support" / "golden"
#: Work directories that earlier versions wrote.
STORED: Final = ROOT / "tests" / "support" / "stored"
