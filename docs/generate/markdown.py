"""Markdown: tables, and generated blocks of pages that are otherwise written by hand."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

NOTICE: Final = "Generated from the code by `python -m docs.generate --write`. Do not edit.\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Return a table, with a newline at its end.

    >>> print(table(["a", "b"], [["1", "x|y"]]), end="")
    | a | b |
    | --- | --- |
    | 1 | x\|y |
    """
    lines = (head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def paragraph(*sentences: str) -> str:
    """Return a paragraph of lines with at most 120 characters, with a newline at its end."""
    lines = textwrap.wrap(" ".join(sentences), 120, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, ""])


def code(*words: object) -> str:
    """Return words as code, separated by commas.

    >>> code("low", 3)
    '`low`, `3`'
    """
    return ", ".join(f"`{word}`" for word in words)


def replace_block(page: str, name: str, block: str) -> str:
    """Replace the text between the two markers of a generated block.

    Raises:
        ValueError: The page does not have the markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no {begin} … {end}")
    return f"{before}{begin}\n{block.strip()}\n{end}{after}"
