"""The settings of ``imagebeam batch status``, ``collect``, ``cancel``, ``list`` and ``delete``."""

import dataclasses
from typing import Annotated, Final

from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting, pick

BATCH: Final[Flags] = {
    **pick(CLASSIFY, "work_dir", "batch_poll_s", "no_wait", "json", "config"),
    "no_wait": dataclasses.replace(CLASSIFY["no_wait"], help="Do what can be done now, and return instead of waiting."),
    "run_id": dataclasses.replace(
        CLASSIFY["run_id"], help="Id of the run. Required for cancel.", computed="all open runs"
    ),
}


class _DeleteFlags(Settings, group=Group.RUN, in_file=False):
    """What is deleted."""

    files: Annotated[
        bool,
        Setting(
            "Delete the files of the run in the work directory too. Answers and tables are kept.",
            example="true",
        ),
    ] = False


LIST: Final[Flags] = pick(CLASSIFY, "work_dir", "json", "config")
DELETE: Final[Flags] = {
    **pick(CLASSIFY, "work_dir", "config"),
    "run_id": dataclasses.replace(CLASSIFY["run_id"], help="Id of the ended run.", computed=""),
    **flags_of(_DeleteFlags),
}
