"""Width of text for people."""

import shutil


def width() -> int:
    """Return the columns to write in: the terminal's, at least 60 and at most 110; 80 where there is none."""
    return max(60, min(110, shutil.get_terminal_size((80, 24)).columns))
