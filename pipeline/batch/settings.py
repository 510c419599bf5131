"""The settings of ``imagebeam batch``."""

import dataclasses
from typing import Final

from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.setting import Flags, pick

BATCH: Final[Flags] = {
    **pick(CLASSIFY, "work_dir", "batch_poll_s", "no_wait", "json", "config"),
    "no_wait": dataclasses.replace(CLASSIFY["no_wait"], help="Do what can be done now, and return instead of waiting."),
    "run_id": dataclasses.replace(
        CLASSIFY["run_id"], help="Id of the run. Required for cancel.", computed="all open runs"
    ),
}
