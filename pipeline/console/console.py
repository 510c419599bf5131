"""The console of a command: status lines on standard error, results on standard output.

Every command prints through one :class:`Console`. It honors ``--quiet`` and ``--json``, keeps control characters in
data away from the terminal, never interprets markup in data, and writes plain text where the output is not a terminal.

This module imports rich. Import it from a command, not from the command line's ``--help``.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, Final

import rich.console
import rich.table
import rich.text

from imagebeam.pipeline.console.text import printable

#: Width of text that is not for a terminal: tables are not wrapped, so that other programs can read them.
_UNLIMITED_COLUMNS: Final = 100_000


class Console:
    """Print what one command has to show.

    Args:
        quiet: Do not print status lines, warnings and progress.
        json: Do not print status lines and progress, because a program reads the result.

    Attributes:
        errors: The rich console of standard error.
        shows_progress: Whether progress is printed.
    """

    def __init__(self, *, quiet: bool = False, json: bool = False) -> None:
        self.errors = _RichConsole(stderr=True)
        self.shows_progress = not quiet and not json
        self._out = _RichConsole(stderr=False)
        self._quiet = quiet

    def status(self, text: str) -> None:
        """Print a status line to standard error, unless ``--quiet`` or ``--json`` is set."""
        if self.shows_progress:
            self.errors.out(printable(text), highlight=False)

    def warn(self, text: str) -> None:
        """Print a warning to standard error, unless ``--quiet`` is set."""
        if not self._quiet:
            self.errors.out(printable(f"warning: {text}"), highlight=False)

    def print(self, *lines: str) -> None:
        """Print lines of the result to standard output, each as it is."""
        if lines:
            self._out.write_plain(printable("\n".join(lines)))

    def print_table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table to standard output.

        On a terminal the table fits its width, and long cells are wrapped; elsewhere every row is one line.

        Args:
            header: Column titles.
            rows: Cells of any type; None is shown as ``-``, a float with three decimals.
        """
        if self._out.is_terminal:
            self._out.print(_build_table(header, rows))
        else:
            self.print(*format_table(header, rows))

    def print_records(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Print a table of rows that have the same keys; nothing for no rows."""
        if rows:
            self.print_table(list(rows[0]), [list(row.values()) for row in rows])

    def print_json(self, document: object) -> None:
        """Print a JSON document to standard output; values that JSON has no type for become text."""
        self._out.write_plain(json.dumps(document, indent=2, default=str))


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Format a table as plain lines, one per row; columns of numbers are aligned on the right.

    >>> format_table(["a", "b"], [[1, "x"], [22, None]])
    [' a  b', ' 1  x', '22  -']
    """
    plain = _RichConsole(file=io.StringIO())
    with plain.capture() as captured:
        plain.print(_build_table(header, rows))
    return [line.rstrip() for line in captured.get().splitlines()]


class _RichConsole(rich.console.Console):
    """A rich console that prints text as it is, and survives that its reader goes away."""

    def __init__(self, *, file: IO[str] | None = None, stderr: bool = False) -> None:
        stream = file or (sys.stderr if stderr else sys.stdout)
        is_terminal = stream.isatty()
        super().__init__(
            file=file,
            stderr=stderr,
            force_terminal=is_terminal,  # whatever FORCE_COLOR says: a log must stay readable
            width=None if is_terminal else _UNLIMITED_COLUMNS,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def print(self, *objects: Any, **options: Any) -> None:
        """Print unless the reader is gone: a closed pipe, or a terminal that hung up."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.on_broken_pipe()

    def write_plain(self, text: str) -> None:
        """Write text without expanding its tabs."""
        try:
            self.file.write(text + "\n")
            self.file.flush()
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Discard what is printed from now on; the exit code stays that of the command."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def _build_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> rich.table.Table:
    cells = [list(row) for row in rows]
    table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, title in enumerate(header):
        values = [row[index] for row in cells if row[index] is not None]
        numeric = bool(values) and all(isinstance(value, int | float) for value in values)
        table.add_column(rich.text.Text(title), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(rich.text.Text(_cell_text(value)) for value in row))
    return table


def _cell_text(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return " ".join(printable(text).split())
