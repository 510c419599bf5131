"""Read the output of a batch job: files below a ``gs://`` prefix, or a BigQuery table."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from google.cloud import bigquery

from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.gemini.batch_responses import OutputLine, parse_line, parse_row
from imagebeam.transforms.gemini.job_states import BatchJob

INCREMENTAL: Final = "incremental_predictions"
#: Directory that a job makes for its output: ``prediction-model-`` and its creation time.
_DIRECTORY: Final = re.compile(r"prediction-.*?(\d{4}-\d{2}-\d{2}T[\d:.]+Z)")
#: The directory's time may be rounded.
_SAME_TIME: Final = datetime.timedelta(seconds=1)


def read_file_lines(paths: Sequence[str], directory: Path) -> Iterator[OutputLine]:
    """Yield the lines of output files.

    Args:
        paths: The files.
        directory: Local directory for one file at a time.
    """
    for path in paths:
        local = directory / "output.jsonl"
        if not storage.download(path, local):
            continue
        with local.open("rb") as lines:
            for line in lines:
                if stripped := line.strip():
                    yield parse_line(stripped)
        local.unlink()


def read_table_lines(bq: BigQueryClient, table: TableName) -> Iterator[OutputLine]:
    """Yield the rows of an output table, page by page and without a query, so that its region does not matter."""
    found = bq.get_table(table)
    if found is None:
        return
    wanted = [field["name"] for field in found.schema if field["name"] != "request"] + ["request"]
    with contextlib.closing(iter(bq.client.list_rows(bigquery.TableReference.from_string(table.dotted)))) as rows:
        for row in rows:
            yield parse_row({column: row.get(column) for column in wanted})


def answer_files(directory: str) -> list[str]:
    """List the files with the answers in the output directory of a job.

    Incremental files, written while a job runs, count only if there are no final ones.
    """
    inside = [name for name in storage.list_names(directory) if name.endswith(".jsonl")]
    final = [name for name in inside if "/" not in name and name.startswith("predictions")]
    names = final or [name for name in inside if INCREMENTAL in name.split("/")[:-1]]
    return [storage.join(directory, name) for name in names]


def find_output_directory(job: BatchJob, prefix: str) -> str | None:
    """Return the output directory of a job below a prefix that other jobs use too.

    Args:
        job: The job.
        prefix: Its requested output, ``gs://``.

    Returns:
        The directory that the service reports, else the one named after the job's creation; None if there is none.
    """
    if job.output_directory or job.created is None:
        return job.output_directory
    for name in sorted({name.partition("/")[0] for name in storage.list_names(prefix)}):
        made = _DIRECTORY.fullmatch(name)
        if made and abs(datetime.datetime.fromisoformat(made[1]) - job.created) <= _SAME_TIME:
            return storage.join(prefix, name)
    return None
