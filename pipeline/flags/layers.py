"""What a person said: the command line over ``imagebeam.yaml`` over the defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagebeam.pipeline.flags import config_file
from imagebeam.pipeline.flags import parser as flag_parser
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import CONFIG, PROJECT, Flag, by_name

#: What may be read: one of these, never two.
SOURCES = ("source", "query", "query_file")


@dataclasses.dataclass(frozen=True, slots=True)
class FlagValues:
    """What a person said, on the command line and in ``imagebeam.yaml``.

    Attributes:
        values: The value of every flag of the command, defaults included.
        given: Those that were given.
        line_beam: Options for Beam on the command line.
        file_beam: Those in the file.
    """

    values: dict[str, Any]
    given: Mapping[str, Any]
    line_beam: Sequence[str]
    file_beam: Sequence[str]


def read_flags(
    argv: Sequence[str],
    flags: tuple[Flag, ...],
    *,
    command: str,
    cwd: Path,
    environ: Mapping[str, str],
    beam: bool = True,
) -> FlagValues:
    """Reads the command line over the file over the defaults.

    Args:
        argv: Arguments after the command.
        flags: Flags of the command. What the file says of other commands is left alone.
        command: Its name, for messages.
        cwd: Directory that ``imagebeam.yaml`` is looked for in.
        environ: The environment.
        beam: Whether Beam's own options go through.

    Raises:
        UserError: Unknown flag or key, bad value.
    """
    line = flag_parser.read(argv, by_name(flags), command=command, beam=beam)
    file = config_file.read(cwd / str(line.values.get("config", CONFIG.default)), required="config" in line.values)
    ours = {flag.name for flag in flags if flag.in_file}
    given = _merged(line.values, {name: value for name, value in file.values.items() if name in ours})
    values = {flag.name: given.get(flag.name, flag.default) for flag in flags}
    if values["project"] is None and environ.get("GOOGLE_CLOUD_PROJECT"):
        project = environ["GOOGLE_CLOUD_PROJECT"]
        values["project"] = flag_values.from_text(PROJECT, project, where="GOOGLE_CLOUD_PROJECT")
    return FlagValues(values, given, line.beam, file.beam)


def _merged(line: Mapping[str, Any], file: Mapping[str, Any]) -> dict[str, Any]:
    # A source on the command line replaces the file's, whichever of the three ways either is given in.
    replaced = SOURCES if any(name in line for name in SOURCES) else ()
    return {**{name: value for name, value in file.items() if name not in replaced}, **line}
