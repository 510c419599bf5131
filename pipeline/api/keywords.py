"""Keyword arguments as flags: the same names, values and checks as on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.layers import FlagValues, names_of, warn_if_deprecated
from imagebeam.pipeline.flags.setting import Flags
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.strict_yaml import suggestion


def read_keywords(function: str, flags: Flags, given: Mapping[str, Any], *, beam: bool) -> FlagValues:
    """Read keyword arguments as a command line is read.

    Args:
        function: Name of the function, for messages.
        flags: Its flags.
        given: The arguments; None means that the flag is not given.
        beam: Whether Beam's own options are accepted.

    Raises:
        UserError: Unknown name, invalid value, or a flag that is given twice.
    """
    names, values = names_of(flags), dict[str, Any]()
    options: list[str] = []
    for name, value in given.items():
        setting = names.get(name)
        if setting is None:
            if name in beam_flags.INSTEAD:
                raise UserError(f"{function}() has no argument {name}; {beam_flags.INSTEAD[name]}")
            if not (beam and beam_flags.is_known(name)):
                known = [each for each, flag in flags.items() if not flag.replaced_by]
                hint = suggestion(name, known) or (beam_flags.near(name).replace("--", "") if beam else "")
                raise UserError(f"{function}() has no argument {name}{hint}")
            options += [] if value is None else beam_flags.from_yaml(name, value, where=name)
        elif value is not None:
            if setting.name in values:
                raise UserError(f"{setting.name} is given twice, also as {name}")
            warn_if_deprecated(setting, name, dashes="")
            values[setting.name] = flag_values.read(setting, value, where=name)
    beam_flags.check(options)
    return FlagValues(values, tuple(options))
