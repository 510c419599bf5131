"""The settings of ``imagebeam preflight`` beside those of the command that it checks."""

from typing import Annotated, Final

from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Setting


class PreflightFlags(Settings, in_file=False):
    """Settings of ``imagebeam preflight`` itself."""

    # fmt: off
    no_probe: Annotated[bool, Setting(
        "Make no paid call, not even the two that decide how images are sent.", example="true")] = False
    # fmt: on


#: Settings of ``imagebeam preflight`` itself.
PREFLIGHT: Final[Flags] = flags_of(PreflightFlags)
