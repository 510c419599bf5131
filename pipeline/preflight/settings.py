"""The settings of ``imagebeam preflight``, in addition to those of the checked command."""

from typing import Annotated, Final

from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Setting


class PreflightFlags(Settings, in_file=False):
    """Settings of ``imagebeam preflight`` itself."""

    # fmt: off
    no_probe: Annotated[bool, Setting(
        "Skip the two paid calls that test how images can be sent.", example="true")] = False
    # fmt: on


#: Settings of ``imagebeam preflight`` itself.
PREFLIGHT: Final[Flags] = flags_of(PreflightFlags)
