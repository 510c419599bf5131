"""The settings of ``imagebeam batch``."""

from typing import Annotated, Final

from imagebeam.pipeline.flags.execution import BatchPollSettings, ConfigSettings, JsonSettings
from imagebeam.pipeline.flags.inputs import WorkDirSettings
from imagebeam.pipeline.flags.model import flags_of
from imagebeam.pipeline.flags.setting import Flags, Setting


class BatchFlags(ConfigSettings, JsonSettings, BatchPollSettings, WorkDirSettings):
    """Settings of ``imagebeam batch``."""

    # fmt: off
    run_id: Annotated[str | None, Setting(
        "Run to follow.", metavar="NAME", example="poles-2026-11-21", in_file=False, computed="all open runs")] = None
    # fmt: on


#: Settings of ``imagebeam batch``.
BATCH: Final[Flags] = flags_of(BatchFlags)
