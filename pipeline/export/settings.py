"""The settings of ``imagebeam export``, typed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self, cast

import pydantic

from imagebeam.pipeline.flags.execution import ConfigSettings, ForceSettings, JsonSettings
from imagebeam.pipeline.flags.inputs import DATASET, DatasetSettings, SourceSettings
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.model import Settings, flags_of
from imagebeam.pipeline.flags.setting import Flags, Group, Setting
from imagebeam.pipeline.run.settings import has_source, merge_layers, qualified_name, resolve_project, resolve_source
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import check_expression

Format = Literal["csv", "parquet", "jsonl", "geojson", "tuning_jsonl"]
#: Format by the suffix of the file.
_SUFFIXES: Final[Mapping[str, Format]] = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".geojson": "geojson",
}


# fmt: off
class ExportFlags(Settings, group=Group.EXPORT, in_file=False):
    """What is exported, and where to."""

    task: Annotated[str, Setting(
        "Task whose answers are exported: a name, or a YAML file.",
        metavar="NAME|FILE", example="utility_pole", in_file=True)]
    output: Annotated[str, Setting(
        "File to write: a local path, or gs://bucket/name.", metavar="FILE", example="poles.parquet")]
    format: Annotated[Format | None, Setting(
        "Format of the file. tuning_jsonl is the format of Gemini's supervised tuning.",
        metavar="FORMAT", example="geojson", computed="from the suffix of --output")] = None
    where: Annotated[str | None, Setting(
        "Export only answers that match this GoogleSQL condition on the columns of the file.",
        metavar="SQL", example="condition = 'poor'")] = None
    version: Annotated[str | None, Setting(
        "Export only answers of this version of the task.",
        metavar="VERSION", pattern=r"[0-9a-f]{12}", form="12 hex digits, as in the column _version",
        example="0f3a9c62b1de", computed="the newest answer of each unit")] = None
    limit: Annotated[int | None, Setting(
        "Export at most N answers, the first ones by unit_id.", minimum=1, example="1000")] = None
# fmt: on


class ExportSettings(ConfigSettings, JsonSettings, ForceSettings, DatasetSettings, SourceSettings, ExportFlags):
    """Settings of ``imagebeam export``."""

    # fmt: off
    results: Annotated[str, Setting(
        "BigQuery dataset with the answers.",
        metavar="DATASET", pattern=DATASET, form="dataset or project.dataset", example="image_answers")]
    # fmt: on

    @property
    def file_format(self) -> Format:
        """Format of the file."""
        return cast("Format", self.format)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _find_format(cls, values: dict[str, object]) -> dict[str, object]:
        if values.get("format") is not None or "output" not in values:
            return values
        suffix = Path(str(values["output"])).suffix.lower()
        if suffix not in _SUFFIXES:
            raise UserError(
                f"--output={values['output']}: the suffix is none of {', '.join(_SUFFIXES)}; set --format too"
            )
        return {**values, "format": _SUFFIXES[suffix]}

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.where is not None:
            check_expression(self.where, source="--where")
        if self.format == "tuning_jsonl" and self.source is None and self.query is None:
            raise UserError(
                "--format=tuning_jsonl builds each request again, from the source: set --source, --query or "
                "--query_file as for imagebeam classify"
            )
        return self


#: Settings of ``imagebeam export``.
EXPORT: Final[Flags] = flags_of(ExportSettings)
_SOURCE: Final[Flags] = flags_of(SourceSettings)


def load_export(line: FlagValues, *, cwd: Path, environ: Mapping[str, str]) -> ExportSettings:
    """Return the settings of ``imagebeam export``.

    Args:
        line: The command line.
        cwd: Directory that relative paths start from and that may contain ``imagebeam.yaml``.
        environ: The environment; ``GOOGLE_CLOUD_PROJECT`` is the default project.

    Raises:
        UserError: Invalid value, missing setting.
    """
    found = merge_layers(line, EXPORT, cwd=cwd)
    values, project = dict(found.given), resolve_project(found, environ)
    if "results" not in values:
        raise UserError("no dataset: set --results=DATASET, the dataset with the answers, here or in imagebeam.yaml")
    if "task" not in values:
        raise UserError("no task: set --task=NAME; imagebeam tasks list prints the names")
    if "output" not in values:
        raise UserError("no file: set --output=FILE, such as --output=answers.csv")
    if not values["output"].startswith("gs://"):
        values["output"] = str(cwd / Path(values["output"]).expanduser())
    if has_source(values):
        values = resolve_source(values, project, cwd)
    settings = ExportSettings(**{
        **values, "project": project, "results": qualified_name(DATASET, values["results"], project),
    })  # fmt: skip
    unused = [name for name in line.given if name in _SOURCE]
    if unused and settings.format != "tuning_jsonl":
        raise UserError(f"--{unused[0]} is for --format=tuning_jsonl; the other formats contain the results only")
    return settings
