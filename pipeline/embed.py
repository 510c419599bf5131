"""``imagebeam embed``: the vector of every due image of a source, through the pipeline of classify."""

from __future__ import annotations

import sys

from imagebeam.pipeline import batch_store, classify
from imagebeam.pipeline.embed_config import EmbedSettings
from imagebeam.pipeline.launch import read_json
from imagebeam.transforms import objects
from imagebeam.transforms.embeddings import embedding_table, vector_index_sql
from imagebeam.transforms.identifiers import TableName
from imagebeam.transforms.queries import Query
from imagebeam.transforms.warehouse import Warehouse


def run(settings: EmbedSettings, beam_args: list[str]) -> int:
    """Runs the job as :func:`classify.run` does, then makes the vector index if it was asked for.

    Returns:
        The exit code of the run.
    """
    if settings.lane == "sql":
        from imagebeam.pipeline import embed_sql

        return embed_sql.run(settings)
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
    Warehouse(settings.project).small_query(Query(sql))
    _say(settings, f"index    {table.dotted}_index; BigQuery uses it once the table has 10 MB")


def _goes_on(settings: EmbedSettings) -> bool:
    """True if the run was only begun here, and ends elsewhere."""
    if settings.lane != "batch":
        return settings.runner == "DataflowRunner"
    summary = objects.join(settings.work_dir, batch_store.RUNS, settings.run_id, batch_store.SUMMARY_FILE)
    return read_json(summary) is None


def _say(settings: EmbedSettings, line: str) -> None:
    if not settings.quiet:
        sys.stderr.write(line + "\n")
