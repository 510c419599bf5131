"""Tables, views and events that every run creates in the results dataset."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson

from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import utc_now
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql import embedding_tables, tables, views


def prepare_tables(bq: BigQueryClient, settings: RunSettings) -> None:
    """Create missing tables, update the views, and record the version of the task."""
    for name, table in tables.TABLES.items():
        bq.create_table(
            settings.sibling(name), table.schema, clustering=table.clustering, description=table.description
        )
    task = settings.task
    if task.vector_dimension is not None:
        prepare_embeddings(bq, settings.outcomes, task.model, task.vector_dimension)
    for name, view in views.views(settings.outcomes, task).items():
        bq.put_view(settings.sibling(name), view.sql, description=view.description)
    bq.insert_row(
        settings.task_versions,
        {
            "task": task.name,
            "version": task.version,
            "definition": orjson.dumps(task.definition()).decode(),
            "description": task.description,
            "created_at": utc_now(),
            "run_id": settings.run_id,
        },
        f"{task.name}-{task.version}",
    )


def prepare_embeddings(bq: BigQueryClient, results: TableName, model: str, dimension: int) -> TableName:
    """Create the table of the vectors of a model and dimension, and update the view over all such tables.

    Returns:
        The table.
    """
    table = embedding_tables.embedding_table(results, model, dimension)
    definition = embedding_tables.EMBEDDINGS
    bq.create_table(table, definition.schema, clustering=definition.clustering, description=definition.description)
    names = {
        *filter(embedding_tables.is_embedding_table, bq.list_tables(table.project, table.dataset)),
        table.table,
    }
    bq.put_view(
        dataclasses.replace(table, table=embedding_tables.VIEW),
        embedding_tables.embeddings_view([dataclasses.replace(table, table=name) for name in names]),
        description="imagebeam: the newest vector of each unit, model and dimension.",
    )
    return table


def release_lease(bq: BigQueryClient, settings: RunSettings) -> None:
    """Release the task's lease, so that other runs can process other units."""
    if settings.lease is not None:
        lease.release(bq, settings.lease, settings.run_id)


def write_event(bq: BigQueryClient, settings: RunSettings, name: str, **columns: Any) -> None:
    """Add an event to the table ``runs``."""
    row = run_event(settings, event=name, at=utc_now(), **columns)
    bq.insert_row(settings.runs, row, f"{settings.run_id}-{name}-{row['at']}")


def run_event(settings: RunSettings, **columns: Any) -> dict[str, Any]:
    """Return a row of the table ``runs``: the columns that every event of the run has, and the given ones."""
    return {
        "run_id": settings.run_id,
        "task": settings.task.name,
        "version": settings.task.version,
        "who": settings.who,
        "source": settings.source_text,
        "filters": settings.filters_json,
        "lane": settings.engine.call_settings.lane,
        "model": settings.task.model,
        **columns,
    }
