"""The settings of ``imagebeam batch``."""

import dataclasses
from typing import Final

from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.setting import Flags, pick

BATCH: Final[Flags] = {
    **pick(CLASSIFY, "work_dir", "batch_poll_s", "no_wait", "json", "config"),
    "run_id": dataclasses.replace(CLASSIFY["run_id"], help="Run to follow.", computed="all open runs"),
}
