"""What one run is: the settings that every step gets, and the names of what it writes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.engine.settings import EngineSettings
from imagebeam.transforms.sql.embedding_tables import embedding_table
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.selection import Selection
from imagebeam.transforms.sql.sources import Source
from imagebeam.transforms.tasks.embedding import EmbedTask
from imagebeam.transforms.tasks.task import Task


@dataclasses.dataclass(frozen=True, slots=True)
class RunSettings:
    """Everything that a run's steps need, picklable and the same everywhere.

    Attributes:
        engine: How to ask and where outcomes are kept.
        source: Table or query of the observations, with its profile.
        filters: Which of them.
        selection: The states of the units that the run processes.
        keep_columns: Columns of the source that are copied into ``extra``.
        outcomes: The table ``outcomes``; its dataset holds everything else that a run writes.
        location: Where source and results live.
        directory: The run's directory, local or ``gs://``.
        unit_batch_size: Units per group.
        maximum_bytes_billed: Cap of the source query; None for none.
        who: The person's account, for the table ``runs``.
        filters_json: The filters as a person gave them, for the table ``runs``.
        source_text: The source as a person gave it.
        round: 1, or more for units of this same run that are asked about again: those that it recorded as
            failed for a reason that passes.
    """

    engine: EngineSettings
    source: Source
    filters: Filters
    selection: Selection
    keep_columns: tuple[str, ...]
    outcomes: TableName
    location: str
    directory: str
    unit_batch_size: int = 200
    maximum_bytes_billed: int | None = None
    who: str = ""
    filters_json: str = "{}"
    source_text: str = ""
    round: int = 1

    @property
    def run_id(self) -> str:
        """The machine-made id of the run."""
        return self.engine.run_id

    @property
    def task(self) -> Task:
        """What is asked."""
        return self.engine.call_settings.task

    @property
    def answers(self) -> TableName:
        """Where a person finds the answers: the task's view, or the table of the vectors."""
        if isinstance(self.task, EmbedTask):
            return embedding_table(self.outcomes, self.task.model, self.task.dimension)
        return self.sibling(self.task.name)

    @property
    def runs(self) -> TableName:
        """The table of runs."""
        return self.sibling("runs")

    @property
    def task_versions(self) -> TableName:
        """The table of task versions."""
        return self.sibling("task_versions")

    @property
    def summary_path(self) -> str:
        """The run's summary.json."""
        return storage.join(self.directory, "summary.json")

    @property
    def error_path(self) -> str:
        """Where a step that cannot go on says why, for the launcher to read."""
        return storage.join(self.directory, "error.json")

    def sibling(self, table: str) -> TableName:
        """Another table of the results dataset."""
        return dataclasses.replace(self.outcomes, table=table)

    def labels(self) -> Mapping[str, str]:
        """Billing labels of the run's BigQuery jobs and model calls."""
        return run_labels(self.run_id, self.task.name)


def run_labels(run_id: str, task: str) -> dict[str, str]:
    """Billing labels: they let a billing export prove what a run cost.

    Label values are lower case letters, digits, _ and -, at most 63 characters (Google, "Custom metadata labels").
    """
    named = {"imagebeam_run": run_id, "imagebeam_task": task}
    return {name: re.sub(r"[^a-z0-9_-]", "-", value.lower())[:63] for name, value in named.items()}


def event(settings: RunSettings, **columns: Any) -> dict[str, Any]:
    """A row of the table ``runs``: what every event of the run says, and these columns."""
    call_settings = settings.engine.call_settings
    return {
        "run_id": settings.run_id,
        "task": settings.task.name,
        "version": settings.task.version,
        "who": settings.who,
        "source": settings.source_text,
        "filters": settings.filters_json,
        "lane": call_settings.lane,
        "model": settings.task.model,
        **columns,
    }
