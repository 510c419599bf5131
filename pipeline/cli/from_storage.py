"""Runs a command whose files are in Cloud Storage: ``python -m imagebeam.pipeline.cli.from_storage classify …``.

For containers: a task, a query or a polygon of somebody's own is no part of the image.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imagebeam.pipeline.cli import main as cli
from imagebeam.pipeline.cli.flex_template import fetched
from imagebeam.transforms.core.errors import ImagebeamError


def main(argv: Sequence[str] | None = None) -> int:
    """Fetches what ``--task=gs://…`` and the like name, and runs the command.

    Args:
        argv: The command and its arguments; those of the process when None.

    Returns:
        The exit code of the command; 2 when a file is not there.
    """
    given = sys.argv[1:] if argv is None else argv
    with tempfile.TemporaryDirectory() as directory:
        try:
            arguments = fetched(given, Path(directory))
        except ImagebeamError as error:
            sys.stderr.write(f"imagebeam: {error}\n")
            return error.exit_code
        return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
