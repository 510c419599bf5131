"""``imagebeam init``: write ``imagebeam.yaml``."""

import os
from pathlib import Path
from typing import Final

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.flags import config_file
from imagebeam.pipeline.flags.classify import CLASSIFY, IN_FILE
from imagebeam.pipeline.flags.command import FlagCommand
from imagebeam.pipeline.flags.execution import ForceSettings
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import flags_of
from imagebeam.pipeline.flags.setting import Flags, pick
from imagebeam.transforms.core.errors import UserError

INIT: Final[Flags] = {**pick(CLASSIFY, "config"), **flags_of(ForceSettings)}


def run(line: FlagValues) -> int:
    """Write the file: the given flags as keys, all others as comments.

    Raises:
        UserError: The file exists and ``--force`` is not given, or cannot be written.
    """
    own, keys = line.split(INIT)
    path = Path.cwd() / str(own.get(INIT["config"]))
    text = config_file.write(keys.given, line.beam)
    try:
        with path.open("w" if own.get(INIT["force"]) else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists; edit it, or use --force to overwrite it") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    Console().print(f"{os.path.relpath(path)} written: {', '.join(keys.given) or 'all keys are commented out'}")
    return 0


command: Final = FlagCommand(
    "init",
    {**IN_FILE, **INIT},
    run,
    summary="Write imagebeam.yaml, a configuration file for flags.",
    usage="[--flag=value …] [--force]",
    examples=("imagebeam init --project=my-project --results=image_answers",),
    notes="Accepts Beam options and all flags that imagebeam.yaml can contain; imagebeam classify --help lists them. "
    "The given flags are set in the file; all others are written as comments with an example.",
    shown=INIT,
    beam=True,
)
