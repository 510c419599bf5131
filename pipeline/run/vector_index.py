"""The vector index of a table of embeddings, created once a run has filled it."""

from __future__ import annotations

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.sql.embedding_tables import embedding_table, vector_index_sql


def create_vector_index(settings: EmbedSettings, exit_code: int, console: Console) -> None:
    """Create the vector index after a run that finished, or print how to create it later.

    Args:
        settings: Settings of the run.
        exit_code: Exit code of the run; anything but 0 leaves the index for later.
        console: Where to print.

    Raises:
        UserError: BigQuery rejects the statement.
    """
    table = embedding_table(TableName(*settings.results_dataset, "outcomes"), str(settings.model), settings.dimension)
    sql = vector_index_sql(table)
    if exit_code or _ends_elsewhere(settings):
        why = f"the run ended with exit code {exit_code}" if exit_code else "the run is still in progress"
        console.status(f"no vector index yet: {why}; create it later with: {' '.join(sql.split())}")
        return
    BigQueryClient(settings.project).query_rows(Query(sql))
    console.status(f"index    {table.dotted}_index; BigQuery uses it once the table has 10 MB")


def _ends_elsewhere(settings: EmbedSettings) -> bool:
    """Return whether the run was only started here."""
    if settings.lane != Lane.BATCH:
        return settings.runner == "DataflowRunner"
    return read_json(storage.join(settings.work_dir, "runs", settings.run_id, "summary.json")) is None
