"""Width of the terminal."""

import shutil


def width() -> int:
    """Return the width of the terminal in columns, at least 60 and at most 110; 80 without a terminal."""
    return max(60, min(110, shutil.get_terminal_size((80, 24)).columns))
