"""Settings of ``imagebeam classify``, and those that ``imagebeam.yaml`` may contain."""

from typing import Final

from imagebeam.pipeline.flags.execution import BatchSettings, LimitSettings, ModelSettings, RunnerSettings
from imagebeam.pipeline.flags.inputs import ResultSettings, SourceSettings, TaskSettings, UnitSettings
from imagebeam.pipeline.flags.model import flags_of
from imagebeam.pipeline.flags.setting import Flags


class ClassifyFlags(
    RunnerSettings,
    BatchSettings,
    LimitSettings,
    ModelSettings,
    ResultSettings,
    UnitSettings,
    SourceSettings,
    TaskSettings,
):
    """Every setting of a run; the last base comes first in ``--help``."""


CLASSIFY: Final[Flags] = flags_of(ClassifyFlags)
#: Settings that ``imagebeam.yaml`` may contain, of all commands.
IN_FILE: Final[Flags] = {name: setting for name, setting in CLASSIFY.items() if setting.in_file}
