"""Text that is safe to print."""

from __future__ import annotations

import re

#: Control characters other than tab and line feed, line and paragraph separators, bidirectional overrides, and lone
#: surrogates: they can move the cursor, recolor or reorder what a terminal shows, or cannot be encoded.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text with every character replaced that a terminal would interpret instead of show.

    >>> printable(f"a{chr(27)}[31mb")
    'a�[31mb'
    """
    return _UNPRINTABLE.sub("\ufffd", text)
