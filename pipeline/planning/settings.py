"""The settings of ``imagebeam plan``: those of the command that it plans, and its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.pipeline.run.embed_settings import Job
from imagebeam.pipeline.run.settings import ClassifySettings


# fmt: off
class PlanFlags(Settings, group=Group.PLAN, in_file=False):
    """Settings of ``imagebeam plan`` itself."""

    probe: Annotated[int, Setting(
        "Process N units now and estimate from their actual usage. These calls are paid; their answers are kept.",
        minimum=1, maximum=1_000, example="5", computed="0, no paid call")] = 0
    sample_images: Annotated[int, Setting(
        "Read the first bytes of the images of N units, to find missing, invalid and mislabeled ones. Costs one "
        "Cloud Storage read each; 0 for none.",
        minimum=0, maximum=20_000, example="5000", aliases=("look",))] = 500
# fmt: on


#: Settings of ``imagebeam plan`` itself.
PLAN: Final[Flags] = flags_of(PlanFlags)


class PlanSettings(PlanFlags):
    """What to plan.

    Attributes:
        command: Command to plan.
        settings: Settings of that command.
    """

    command: str
    settings: ClassifySettings


def load_plan(job: Job, line: FlagValues, *, cwd: Path, environ: Mapping[str, str]) -> PlanSettings:
    """Return the settings of ``imagebeam plan``; flags and file are those of the job, too.

    Args:
        job: What to plan.
        line: The command line.
        cwd: Directory that relative paths start from and that may contain ``imagebeam.yaml``.
        environ: The environment.

    Raises:
        UserError: Invalid value, contradiction, missing file.
    """
    own, rest = line.split(PLAN)
    settings, _ = job.load(rest, cwd=cwd, environ=environ)
    return PlanSettings(**own.given, command=job.name, settings=settings)
