"""``imagebeam init``: writes ``imagebeam.yaml``."""

import os
import sys
from pathlib import Path

from imagebeam.pipeline.console import help as help_text
from imagebeam.pipeline.flags import config_file
from imagebeam.pipeline.flags import parser as flag_parser
from imagebeam.pipeline.flags.classify import CONFIG, FORCE, IN_FILE, by_name
from imagebeam.transforms.core.errors import UserError

_FLAGS = (*IN_FILE, CONFIG, FORCE)


def main(argv: list[str], *, cwd: Path) -> int:
    """Writes the file: the given flags as keys, all others as comments.

    Args:
        argv: Arguments after ``init``.
        cwd: Directory of the file.

    Raises:
        UserError: A bad flag, or the file exists and ``--force`` is not given.
    """
    if any(argument in {"--help", "-h"} for argument in argv):
        sys.stdout.write(_help(help_text.width()))
        return 0
    given = flag_parser.read(argv, by_name(_FLAGS), command="imagebeam init")
    values = dict(given.values)
    force = values.pop("force", False)
    path = cwd / str(values.pop("config", CONFIG.default))
    text = config_file.write(values, given.beam)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists; edit it, or give --force to overwrite it") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    shown = os.path.relpath(path, cwd)
    sys.stdout.write(f"{shown} written: {', '.join(values) or 'every key is a comment'}\n")
    return 0


def _help(columns: int) -> str:
    lines = [
        "imagebeam init: write imagebeam.yaml, which keeps the flags that repeat",
        "",
        "Usage: imagebeam init [--flag=value …] [--force]",
        "",
        "Example:",
        "  imagebeam init --project=my-project --results=image_answers --source=my_dataset.my_table",
        "",
        "Given flags become keys; all others are there as comments with an example.",
        *help_text.flags_help(_FLAGS, columns),
    ]
    return "\n".join(lines) + "\n"
