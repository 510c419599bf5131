"""``imagebeam export``: write the answers of a task to a file."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.export import sql as export_sql
from imagebeam.pipeline.export import tuning
from imagebeam.pipeline.export.formats import (
    CONTENT_TYPES,
    CsvWriter,
    Fields,
    GeoJsonWriter,
    JsonLinesWriter,
    ParquetWriter,
    Row,
    RowWriter,
)
from imagebeam.pipeline.export.settings import ExportSettings
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import PAGE_ROWS, BigQueryClient, ResultRef
from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.core.errors import ReconciliationError, UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.gemini.tuning import check_task
from imagebeam.transforms.sql.outcome_queries import versions_query
from imagebeam.transforms.tasks.catalog import build_task, find_task, load_models_file
from imagebeam.transforms.tasks.task import Task


def run(settings: ExportSettings) -> int:
    """Write the answers of a task to a file, and print how many.

    Returns:
        0, also when no answer matches ``--where``.

    Raises:
        UserError: A setting is invalid, there are no answers, or the file exists.
        SystemicError: BigQuery or Cloud Storage cannot be used.
        ReconciliationError: The number of rows in the file is not the number of answers. There is no file then.
    """
    console = Console(json=settings.as_json)
    find_credentials()
    if not settings.force and storage.exists(settings.output):
        raise UserError(f"--output: {settings.output} already exists; use another name, or add --force")
    bq = BigQueryClient(settings.project)
    location = bq.get_dataset_location(*settings.results_dataset)
    if location is None:
        raise UserError(f"--results: dataset {settings.results} does not exist, or you cannot access it")
    task = _find_task(settings, bq, location)
    if settings.file_format == "tuning_jsonl":
        check_task(task)
    answers = find_answers(settings, task, bq, location)
    count = int(bq.query_rows(answers.count_query(), location=location)[0]["answers"])
    if not count and settings.where is None:
        of_version = f" of version {settings.version}" if settings.version else ""
        raise UserError(f"{settings.results} has no answers{of_version} of task {task.name}: run imagebeam classify")
    query = answers.rows_query()
    if settings.file_format == "tuning_jsonl":
        query = tuning.tuning_query(answers, tuning.units_query(settings, task, bq, location))
    # An export reads what is there now: its own job id, so that no earlier result is returned.
    result = bq.query(query, run_id=f"export-{secrets.token_hex(6)}", location=location)
    with storage.open_new(
        settings.output, content_type=CONTENT_TYPES[settings.file_format], replace=settings.force
    ) as file:
        writer = _writer(settings, file, result.schema, task, answers)
        written = 0
        for rows in _pages(bq, result):
            writer.write(rows)
            written += len(rows)
        writer.close()
        expected = count if settings.limit is None else min(count, settings.limit)
        if not written == result.rows == expected:
            raise ReconciliationError(
                f"{expected} answers were counted and {written} were read, so nothing is written: export again when "
                f"no run of task {task.name} is in progress"
            )
    _report(settings, console, writer, written, count)
    return 0


def _find_task(settings: ExportSettings, bq: BigQueryClient, location: str) -> Task:
    """Return the task of a file; or the newest recorded version, if the task has none because it is a prompt.

    Raises:
        UserError: There is neither.
    """
    try:
        file = find_task(settings.task, Path.cwd())
    except UserError:
        versions = TableName(*settings.results_dataset, "task_versions")
        query = versions_query(versions, settings.task)
        rows = bq.query_rows(query, location=location) if bq.get_table(versions) is not None else []
        if not rows:
            raise
        return Task.from_definition(settings.task, orjson.loads(rows[0]["definition"]))
    return build_task(file, load_models_file())


def find_answers(settings: ExportSettings, task: Task, bq: BigQueryClient, location: str) -> export_sql.Answers:
    """Return the answers to export, with the columns of the source that runs kept.

    Raises:
        UserError: The dataset has no results.
    """
    outcomes = TableName(*settings.results_dataset, "outcomes")
    if bq.get_table(outcomes) is None:
        raise UserError(f"{settings.results} has no answers yet: run imagebeam classify --results={settings.results}")
    extras = bq.query_rows(export_sql.kept_query(outcomes, task.name), location=location)
    names = sorted({name for row in extras for name in orjson.loads(row["extra"])})
    kept: tuple[export_sql.KeptColumn, ...] = ()
    if names:
        (types,) = bq.query_rows(export_sql.kept_types_query(outcomes, task.name, names), location=location)
        kept = export_sql.kept_columns(names, types)
    return export_sql.Answers(
        outcomes,
        task.name,
        task.columns(),
        kept,
        version=settings.version,
        where=settings.where,
        limit=settings.limit,
        more=tuning.COLUMNS if settings.file_format == "tuning_jsonl" else (),
    )


def _writer(
    settings: ExportSettings, file: IO[bytes], fields: Fields, task: Task, answers: export_sql.Answers
) -> RowWriter:
    match settings.file_format:
        case "csv":
            return CsvWriter(file, fields)
        case "parquet":
            return ParquetWriter(file, fields)
        case "jsonl":
            return JsonLinesWriter(file)
        case "geojson":
            return GeoJsonWriter(file, answers.column("latitude"), answers.column("longitude"))
        case "tuning_jsonl":
            return tuning.TuningWriter(file, task)


def _pages(bq: BigQueryClient, result: ResultRef) -> Iterator[Sequence[Row]]:
    rows = bq.read_rows(result, 0, result.rows, [str(field["name"]) for field in result.schema])
    while page := list(itertools.islice(rows, PAGE_ROWS)):
        yield page


def _report(settings: ExportSettings, console: Console, writer: RowWriter, written: int, count: int) -> None:
    left_out = dict(writer.left_out) if isinstance(writer, tuning.TuningWriter) else {}
    rows = written - sum(left_out.values())
    report: dict[str, Any] = {
        "output": settings.output,
        "format": settings.file_format,
        "answers": count,
        "rows": rows,
        "left_out": left_out,
    }
    details = [f"{number} left out: {reason}" for reason, number in sorted(left_out.items())]
    if isinstance(writer, GeoJsonWriter):
        report["without_position"] = writer.without_position
        if writer.without_position:
            details.append(f"{writer.without_position} without a position, which have no geometry")
    if settings.as_json:
        console.print_json(report)
        return
    of_all = f" of {count}" if written < count else ""
    console.print(f"{rows}{of_all} answers written to {settings.output} ({settings.file_format})")
    for detail in details:
        console.warn(detail)
