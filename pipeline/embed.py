"""``imagebeam embed``: the vector of every due image of a source, through the pipeline of classify."""

from __future__ import annotations

import sys

from imagebeam.pipeline import classify
from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.sql.embedding_tables import embedding_table, vector_index_sql


def run(settings: EmbedSettings, beam_args: list[str]) -> int:
    """Runs the job as :func:`classify.run` does, then makes the vector index if it was asked for.

    Returns:
        The exit code of the run.
    """
    if settings.lane == Lane.SQL:
        from imagebeam.pipeline.embed_sql import command as embed_sql_command

        return embed_sql_command.run(settings)
    code = classify.run(settings, beam_args)
    if settings.vector_index:
        make_index(settings, code)
    return code


def make_index(settings: EmbedSettings, code: int) -> None:
    """Makes the vector index after a run that came to its end, and says so.

    Raises:
        UserError: BigQuery does not take the statement.
    """
    table = embedding_table(TableName(*settings.results_dataset, "outcomes"), str(settings.model), settings.dimension)
    sql = vector_index_sql(table)
    if code or _goes_on(settings):
        why = f"the run ended with exit code {code}" if code else "the run goes on elsewhere"
        _say(settings, f"no vector index yet: {why}; make it later with: {' '.join(sql.split())}")
        return
    BigQueryClient(settings.project).query_rows(Query(sql))
    _say(settings, f"index    {table.dotted}_index; BigQuery uses it once the table has 10 MB")


def _goes_on(settings: EmbedSettings) -> bool:
    """True if the run was only begun here, and ends elsewhere."""
    if settings.lane != Lane.BATCH:
        return settings.runner == "DataflowRunner"
    summary = storage.join(settings.work_dir, batch_state.RUNS, settings.run_id, batch_state.SUMMARY_FILE)
    return read_json(summary) is None


def _say(settings: EmbedSettings, line: str) -> None:
    if not settings.quiet:
        sys.stderr.write(line + "\n")
