"""The console of a command: status lines on standard error, results on standard output.

Every command prints through one :class:`Console`. It honors ``--quiet`` and ``--json``, keeps control characters in
data away from the terminal, never interprets markup in data, and writes plain text where the output is not a terminal.
rich is imported with the first console, so that ``--help`` does not import it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence

from imagebeam.pipeline.console.text import printable


class Console:
    """Prints the output of a command.

    Args:
        quiet: Do not print status lines, warnings and progress.
        json: Do not print status lines and progress, because a program reads the result.

    Attributes:
        errors: The rich console of standard error.
        shows_progress: Whether progress is printed.
    """

    def __init__(self, *, quiet: bool = False, json: bool = False) -> None:
        from imagebeam.pipeline.console.rich_console import RichConsole

        self.errors = RichConsole(stderr=True)
        self.shows_progress = not quiet and not json
        self._out = RichConsole()
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
            self._out.print_table(header, rows)
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
    from imagebeam.pipeline.console.rich_console import RichConsole

    plain = RichConsole(file=io.StringIO())
    with plain.capture() as captured:
        plain.print_table(header, rows)
    return [line.rstrip() for line in captured.get().splitlines()]
