"""Settings of a run that every step receives, and the names of its tables and files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.engine.settings import EngineSettings
from imagebeam.transforms.sql.embedding_tables import embedding_table
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.selection import QuerySpec, Selection
from imagebeam.transforms.sql.sources import Source
from imagebeam.transforms.tasks.task import Task


@dataclasses.dataclass(frozen=True, slots=True)
class RunSettings:
    """Everything that the steps of a run need; picklable.

    Attributes:
        engine: How to call the model and where outcomes are recorded.
        source: Table or query of the observations, with its profile.
        filters: Filters of the observations.
        selection: The states of the units to process.
        keep_columns: Columns of the source to copy into ``extra``.
        outcomes: The table ``outcomes``. All other tables and views of a run are in its dataset.
        location: Location of source and results.
        directory: The run's directory, local or ``gs://``.
        unit_batch_size: Units per unit batch.
        maximum_bytes_billed: Cap of the source query in bytes; None for no cap.
        who: Account that started the run, for the table ``runs``.
        filters_json: The settings as given, for the table ``runs``.
        source_text: The source as given.
        round: Round of a batch run. From round 2, process only units that this run recorded with a transient failure.
    """

    engine: EngineSettings
    source: Source
    filters: Filters
    selection: Selection
    keep_columns: tuple[str, ...]
    outcomes: TableName
    location: str
    directory: str
    unit_batch_size: int
    maximum_bytes_billed: int | None = None
    who: str = ""
    filters_json: str = "{}"
    source_text: str = ""
    round: int = 1

    @property
    def run_id(self) -> str:
        """The generated id of the run."""
        return self.engine.run_id

    @property
    def task(self) -> Task:
        """The task."""
        return self.engine.call_settings.task

    @property
    def answers(self) -> TableName:
        """The view or table with the answers: the task's view, or the table of its vectors."""
        dimension = self.task.vector_dimension
        if dimension is None:
            return self.sibling(self.task.name)
        return embedding_table(self.outcomes, self.task.model, dimension)

    @property
    def runs(self) -> TableName:
        """The table ``runs``."""
        return self.sibling("runs")

    @property
    def task_versions(self) -> TableName:
        """The table ``task_versions``."""
        return self.sibling("task_versions")

    @property
    def lease(self) -> TableName | None:
        """The lease of the task; None if the run holds none."""
        return None if self.engine.destination is None else self.engine.destination.lease

    @property
    def summary_path(self) -> str:
        """The run's summary.json."""
        return storage.join(self.directory, "summary.json")

    @property
    def error_path(self) -> str:
        """File with the error of a step, for the launcher; see :mod:`~imagebeam.transforms.error_file`."""
        return storage.join(self.directory, "error.json")

    def sibling(self, table: str) -> TableName:
        """Return another table of the results dataset."""
        return dataclasses.replace(self.outcomes, table=table)

    def query_spec(self, *, outcomes_exist: bool = True) -> QuerySpec:
        """Build the specification of the source query.

        Args:
            outcomes_exist: False before the table of outcomes exists, so that every unit is new.
        """
        task, retry = self.task, self.round > 1
        return QuerySpec(
            source=self.source,
            filters=self.filters,
            unit=task.unit,
            max_images=task.max_images,
            task=task.name,
            version=task.version,
            selection=Selection(("retry",)) if retry else self.selection,
            outcomes=self.outcomes if outcomes_exist else None,
            keep_columns=self.keep_columns,
            retry_round=self.round if retry else None,
            run_id=self.run_id,
        )

    def labels(self) -> Mapping[str, str]:
        """Return the billing labels of the run's BigQuery jobs and model calls."""
        return run_labels(self.run_id, self.task.name)


def run_labels(run_id: str, task: str) -> dict[str, str]:
    """Return billing labels, which attribute the cost of a run in a billing export.

    Label values have at most 63 lowercase letters, digits, ``_`` and ``-`` (Google, "Custom metadata labels").
    """
    named = {"imagebeam_run": run_id, "imagebeam_task": task}
    return {name: re.sub(r"[^a-z0-9_-]", "-", value.lower())[:63] for name, value in named.items()}
