"""What ``imagebeam plan`` was told: the flags of the command that it plans, and ``--probe``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from imagebeam.pipeline import flag_values
from imagebeam.pipeline.config import ClassifySettings, classify_settings
from imagebeam.pipeline.embed_config import embed_settings
from imagebeam.pipeline.flags import Flag, Group, Kind
from imagebeam.transforms.checked_yaml import suggestion
from imagebeam.transforms.errors import UserError

PROBE: Final = Flag(
    "probe", Kind.INTEGER, "Ask the model about so many due units, to plan with what they really took. This is paid; "
    "the answers are kept, and not asked for again.",
    Group.RUN, minimum=1, maximum=1_000, example="5", in_file=False,
)  # fmt: skip
#: What can be planned.
COMMANDS: Final = ("classify", "embed")


@dataclasses.dataclass(frozen=True, slots=True)
class PlanSettings:
    """What to plan.

    Attributes:
        command: ``classify`` or ``embed``.
        settings: What that command would be told.
        probe: Units to ask about now, 0 to 1,000.
    """

    command: str
    settings: ClassifySettings
    probe: int = 0


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
    probe = _take_probe(rest)
    read = classify_settings if command == "classify" else embed_settings
    settings, _ = read(rest, cwd=cwd, environ=environ)
    return PlanSettings(command, settings, probe)


def _take_probe(arguments: list[str]) -> int:
    """Takes ``--probe`` out of the arguments; the last one counts."""
    probe, index = 0, 0
    while index < len(arguments):
        name, equals, text = arguments[index].partition("=")
        if name != f"--{PROBE.name}":
            index += 1
            continue
        arguments.pop(index)
        if not equals:
            if index == len(arguments) or arguments[index].startswith("--"):
                raise UserError(f"--{PROBE.name} needs a value; for example --{PROBE.name}={PROBE.example}")
            text = arguments.pop(index)
        probe = flag_values.from_text(PROBE, text, where=f"--{PROBE.name}")
    return probe
