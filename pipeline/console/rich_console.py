"""A rich console that prints text as it is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import IO, Final

import rich.console
import rich.table
import rich.text

from imagebeam.pipeline.console.streams import safe_stream
from imagebeam.pipeline.console.text import printable

#: Width of output that is not a terminal: tables are not wrapped, so that other programs can read them.
_UNLIMITED_COLUMNS: Final = 100_000


class RichConsole(rich.console.Console):
    """A rich console without markup, and without color outside a terminal.

    If its reader goes away (a closed pipe, or a terminal that hung up), it discards what is printed, and the exit code
    stays that of the command.

    Args:
        file: Where to print; the standard stream when None.
        stderr: Whether the standard stream is standard error.
    """

    def __init__(self, *, file: IO[str] | None = None, stderr: bool = False) -> None:
        stream = file or (sys.stderr if stderr else sys.stdout)
        is_terminal = stream.isatty()
        super().__init__(
            file=file,
            stderr=stderr,
            force_terminal=is_terminal,  # whatever FORCE_COLOR says: a log must stay readable
            force_jupyter=False,  # progress goes to standard error in a notebook, too
            width=None if is_terminal else _UNLIMITED_COLUMNS,
            markup=False,
            emoji=False,
            highlight=False,
        )

    @property
    def file(self) -> IO[str]:
        """Where it prints now: standard streams can be redirected later."""
        return safe_stream(super().file)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def print_table(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table; see :meth:`.Console.print_table`."""
        cells = [list(row) for row in rows]
        table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for index, title in enumerate(header):
            values = [row[index] for row in cells if row[index] is not None]
            numeric = bool(values) and all(isinstance(value, int | float) for value in values)
            table.add_column(rich.text.Text(title), justify="right" if numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*(rich.text.Text(_cell_text(value)) for value in row))
        self.print(table)

    def write_plain(self, text: str) -> None:
        """Write text without expanding its tabs."""
        self.file.write(text + "\n")
        self.file.flush()


def _cell_text(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return " ".join(printable(text).split())
