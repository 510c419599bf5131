"""What ``imagebeam plan`` was told: the flags of the command that it plans, ``--look`` and ``--probe``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import Flag, Group, Kind
from imagebeam.pipeline.run.embed_settings import embed_settings
from imagebeam.pipeline.run.settings import ClassifySettings, classify_settings
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion

PROBE: Final = Flag(
    "probe", Kind.INTEGER, "Ask the model about so many due units, to plan with what they really took. This is paid; "
    "the answers are kept, and not asked for again.",
    Group.RUN, minimum=1, maximum=1_000, example="5", in_file=False,
)  # fmt: skip
LOOK: Final = Flag(
    "look", Kind.INTEGER, "Read the first bytes of the images of so many due units: some are gone, or no image, or of "
    "another type than their name says. Costs one read of Cloud Storage each; 0 for none.",
    Group.RUN, default=500, minimum=0, maximum=20_000, example="5000", in_file=False,
)  # fmt: skip
#: Flags of ``imagebeam plan`` itself.
PLAN: Final = (PROBE, LOOK)
#: What can be planned.
COMMANDS: Final = ("classify", "embed")


@dataclasses.dataclass(frozen=True, slots=True)
class PlanSettings:
    """What to plan.

    Attributes:
        command: ``classify`` or ``embed``.
        settings: What that command would be told.
        probe: Units to ask about now, 0 to 1,000.
        look: Units whose images are looked at, 0 to 20,000.
    """

    command: str
    settings: ClassifySettings
    probe: int = 0
    look: int = 500


def plan_settings(argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str]) -> PlanSettings:
    """The settings of ``imagebeam plan [classify|embed]``; flags and file are those of the command.

    Args:
        argv: Arguments after ``plan``.
        cwd: Directory that relative paths start from; ``imagebeam.yaml`` is looked for here.
        environ: The environment.

    Raises:
        UserError: Unknown command, flag or key, bad value, contradiction, missing file.
    """
    rest = list(argv)
    command = rest.pop(0) if rest and not rest[0].startswith("-") else COMMANDS[0]
    if command not in COMMANDS:
        hint = suggestion(command, COMMANDS)
        raise UserError(f"imagebeam plan takes {' or '.join(COMMANDS)}, not {command!r}{hint}")
    probe, look = (_take(flag, rest) for flag in PLAN)
    read = classify_settings if command == "classify" else embed_settings
    settings, _ = read(rest, cwd=cwd, environ=environ)
    return PlanSettings(command, settings, probe, look)


def _take(flag: Flag, arguments: list[str]) -> Any:
    """Takes a flag out of the arguments; the last one counts."""
    value, index = flag.default or 0, 0
    while index < len(arguments):
        name, equals, text = arguments[index].partition("=")
        if name != f"--{flag.name}":
            index += 1
            continue
        arguments.pop(index)
        if not equals:
            if index == len(arguments) or arguments[index].startswith("--"):
                raise UserError(f"--{flag.name} needs a value; for example --{flag.name}={flag.example}")
            text = arguments.pop(index)
        value = flag_values.from_text(flag, text, where=f"--{flag.name}")
    return value
