"""Settings of a run: what it reads and where results go."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import pydantic

from imagebeam.pipeline.flags.model import Settings
from imagebeam.pipeline.flags.setting import Group, Kind, Setting
from imagebeam.transforms.core.records import UnitKind

PROJECT: Final = r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
DATASET: Final = rf"(?:(?P<project>{PROJECT})[.:])?(?P<dataset>\w{{1,1024}})"
TABLE: Final = rf"`?{DATASET}\.(?P<table>[\w-]{{1,1024}})`?"
TABLE_FORM: Final = "project.dataset.table or dataset.table"
PROJECT_FORM: Final = "a project id such as my-project-123"

_STATE: Final = "outdated|failed(?::[A-Za-z][A-Za-z0-9_]*)?"


# One setting takes three or four lines, so that the list reads like a table.
# fmt: off
class TaskSettings(Settings, group=Group.TASK):
    """Task and unit."""

    task: Annotated[str, Setting(
        "Name of a shipped task or of one in tasks/, or a YAML file. See imagebeam tasks list.",
        metavar="NAME|FILE", example="utility_pole")]
    prompt: Annotated[str | None, Setting(
        "Send this prompt about every image, instead of a task file. --task is the name under which answers are "
        "recorded.",
        metavar="PROMPT", example="What is in this image?")] = None
    answer_schema: Annotated[Path | None, pydantic.Field(alias="schema"), Setting(
        "JSON or YAML file with the schema of the answers to --prompt. Without it, answers are text.",
        metavar="FILE", example="answer.yaml")] = None
    model: Annotated[str | None, Setting(
        "Use this model instead of the task's. A different model makes a different task version.",
        metavar="MODEL", example="gemini-3.5-flash-lite")] = None
    unit: Annotated[UnitKind | None, Setting(
        "Make one call per observation, or per asset with its images.",
        example="asset", computed="the task's")] = None
    max_images: Annotated[int | None, Setting(
        "Send at most N images of an asset.",
        minimum=1, maximum=10, example="4", computed="the task's")] = None


class SourceSettings(Settings, group=Group.SOURCE):
    """Where observations are."""

    source: Annotated[str | None, Setting(
        "BigQuery table or view of the observations.", metavar="TABLE", pattern=TABLE, form=TABLE_FORM,
        example="my-project.imagery_insights___us.cropped_observations_latest")] = None
    query: Annotated[str | None, Setting(
        "Read the result of this GoogleSQL query instead of a table.",
        metavar="SQL", example="SELECT * FROM my_dataset.my_images WHERE city = 'Bern'")] = None
    query_file: Annotated[str | None, Setting(
        "Read --query from this file.", metavar="FILE", example="poles.sql")] = None
    profile: Annotated[Literal["auto", "legacy", "cropped", "full_frame", "pano", "custom"], Setting(
        "Layout of the source. auto detects it from the columns.", metavar="PROFILE", example="cropped")] = "auto"
    columns: Annotated[Mapping[str, str], Setting(
        "Map columns of imagebeam to paths in the source, for --profile=custom.",
        repeatable=True, example="observation_id=photo_id,gcs_uri=file.uri")] = {}
    keep_columns: Annotated[tuple[str, ...], Setting(
        "Copy these source columns into the column extra of the results. Prompts can use them.",
        metavar="COLUMN,…", repeatable=True, example="road_name,surveyor")] = ()


class UnitSettings(Settings, group=Group.UNITS):
    """Which units of the source are processed."""

    reprocess: Annotated[tuple[str, ...], Setting(
        "Process these units too, in addition to new units and retries: outdated (answered by an older version), "
        "failed, or failed:REASON.",
        metavar="STATE,…", pattern=_STATE, form="outdated, failed or failed:REASON",
        example="outdated,failed:NOT_FOUND")] = ()
    due: Annotated[tuple[str, ...], Setting(
        "Process exactly these units: new, retry, outdated, failed or failed:REASON.",
        metavar="STATE,…", pattern=f"new|retry|{_STATE}", form="new, retry, outdated, failed or failed:REASON",
        example="new,retry,outdated", replaced_by="reprocess")] = ()
    limit: Annotated[int | None, Setting(
        "Process at most N units (a deterministic subset).", minimum=1, example="100")] = None
    sample_percent: Annotated[float | None, Setting(
        "Process only this percentage of the units (a deterministic subset).",
        minimum=0, above=True, maximum=100, example="5")] = None
    asset_types: Annotated[tuple[str, ...], Setting(
        "Process only assets of these types.",
        metavar="TYPE,…", repeatable=True, example="ASSET_CLASS_UTILITY_POLE")] = ()
    bbox: Annotated[tuple[float, float, float, float] | None, Setting(
        "Process only units inside this box: west, south, east, north in degrees.",
        example="7.40,46.93,7.48,46.97")] = None
    near: Annotated[tuple[float, float, float] | None, Setting(
        "Process only units inside this circle: latitude, longitude, radius in meters.",
        example="46.948,7.447,500")] = None
    polygon_file: Annotated[str | None, Setting(
        "Process only units inside the areas of this GeoJSON file.",
        metavar="FILE", example="district.geojson")] = None
    captured_from: Annotated[str | None, Setting(
        "Process only images captured at or after this time. A date means midnight UTC.",
        kind=Kind.TIME, example="2025-01-01")] = None
    captured_until: Annotated[str | None, Setting(
        "Process only images captured before this time. A date means midnight UTC.",
        kind=Kind.TIME, example="2026-01-01")] = None
    where: Annotated[str | None, Setting(
        "Process only rows that match this GoogleSQL condition on the source columns.",
        metavar="SQL", example="camera_pose.altitude > 400")] = None


class ProjectSettings(Settings, group=Group.RESULTS):
    """The project."""

    project: Annotated[str, Setting(
        "Google Cloud project to use and bill.",
        metavar="PROJECT", pattern=PROJECT, form=PROJECT_FORM, example="my-project", to_beam=True,
        computed="$GOOGLE_CLOUD_PROJECT")]


class DatasetSettings(ProjectSettings, group=Group.RESULTS):
    """Where results are."""

    results: Annotated[str, Setting(
        "BigQuery dataset of the results. Created if it does not exist.",
        metavar="DATASET", pattern=DATASET, form="dataset or project.dataset", example="image_answers")]

    @property
    def results_dataset(self) -> tuple[str, str]:
        """Project and dataset of the results."""
        project, _, dataset = self.results.rpartition(".")
        return project, dataset


class ResultSettings(DatasetSettings, group=Group.RESULTS):
    """Where results go."""

    work_dir: Annotated[str, Setting(
        "Directory for the files of runs. Dataflow and batch jobs need gs://bucket/path.",
        metavar="DIR", example="gs://my-bucket/imagebeam")] = ".imagebeam"
    results_location: Annotated[str | None, Setting(
        "BigQuery location for creating the results dataset.",
        metavar="LOCATION", pattern=r"[A-Za-z][A-Za-z0-9-]+", form="a location such as US, EU or europe-west6",
        example="US", computed="the source's")] = None
# fmt: on
