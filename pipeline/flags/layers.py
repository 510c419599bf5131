"""The layers of settings: the command line, over ``imagebeam.yaml``, over the defaults of the declarations."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, Final

from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.setting import Flags, Kind, Setting
from imagebeam.transforms.core.errors import UserError

#: Settings that exclude each other: one on the command line replaces all of them in the file.
ALTERNATIVES: Final = (("source", "query", "query_file"), ("reprocess", "due"))


@dataclasses.dataclass(frozen=True, slots=True)
class FlagValues:
    """Values that the user set, in one layer or in several merged layers.

    Attributes:
        given: Values by the name of their setting.
        beam: Beam options, as command-line arguments.
        words: Positional arguments, in order.
    """

    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beam: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def get(self, setting: Setting) -> Any:
        """Return a value, or the default of its setting."""
        return self.given.get(setting.name, setting.default)

    def over(self, lower: FlagValues) -> FlagValues:
        """Return both layers merged; values of this layer take precedence."""
        replaced = {name for names in ALTERNATIVES if self.given.keys() & set(names) for name in names}
        kept = {name: value for name, value in lower.given.items() if name not in replaced}
        options = {argument.partition("=")[0] for argument in self.beam}
        beam = [argument for argument in lower.beam if argument.partition("=")[0] not in options]
        return FlagValues({**kept, **self.given}, (*beam, *self.beam), self.words)

    def split(self, flags: Flags) -> tuple[FlagValues, FlagValues]:
        """Return the values of these settings, and everything else."""
        own = {name: value for name, value in self.given.items() if name in flags}
        rest = {name: value for name, value in self.given.items() if name not in flags}
        return FlagValues(own), FlagValues(rest, self.beam, self.words)

    def as_text(self, flags: Flags) -> dict[str, str]:
        """Return the values as they are written on the command line."""
        return {name: flag_values.to_text(flags[name], value) for name, value in self.given.items()}


def join_values(setting: Setting, values: list[Any]) -> Any:
    """Return the value of a flag that was given once or several times.

    Raises:
        UserError: A name has two values.
    """
    first, *others = values if setting.repeatable else values[-1:]
    for other in others:
        if setting.kind is not Kind.PAIRS:
            first = tuple(dict.fromkeys((*first, *other)))
            continue
        for name in first.keys() & other.keys():
            raise UserError(f"--{setting.name} gives {name} twice: {first[name]!r} and {other[name]!r}")
        first = {**first, **other}
    return first


def names_of(flags: Flags) -> dict[str, Setting]:
    """Return the settings by every name, also deprecated ones."""
    return {name: setting for setting in flags.values() for name in (setting.name, *setting.aliases)}


def warn_if_deprecated(setting: Setting, name: str, *, dashes: str = "--", where: str = "") -> None:
    """Print a warning if a setting was set by a deprecated name, such as ``due`` in ``imagebeam.yaml``."""
    if setting.replaced_by or setting.name != name:
        better = setting.replaced_by or setting.name
        sys.stderr.write(f"warning: {dashes}{name}{where} is deprecated; use {dashes}{better}\n")
