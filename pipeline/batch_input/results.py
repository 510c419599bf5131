"""Count the answers, tokens and errors in the output of a job on the user's own input."""

from __future__ import annotations

import collections
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from imagebeam.pipeline.batch_input import state
from imagebeam.pipeline.batch_input.state import InputRun
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.batch_output import (
    answer_files,
    find_output_directory,
    read_file_lines,
    read_table_lines,
)
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import failure_key
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Answer, Lane, Status, Usage, utc_now
from imagebeam.transforms.gemini.batch_responses import OutputLine, parse_answer
from imagebeam.transforms.gemini.job_states import BatchJob, Step
from imagebeam.transforms.gemini.json_values import integer_of, mapping_of
from imagebeam.transforms.tasks.costs import cost_usd
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Price
from imagebeam.transforms.tasks.task import Task, parse_task

#: Errors that the summary lists, per reason.
EXAMPLES: Final = 3
#: A task that accepts every text: the requests are the user's own, with any schema.
ANY_ANSWER: Final[Task] = parse_task("name: input\nprompt: input", source="input", default_model="any")


@dataclasses.dataclass(frozen=True, slots=True)
class RowError:
    """A row without an answer.

    Attributes:
        row: Its key, else the URI of its image, else its number in the output.
        reason: ``STATUS/REASON``.
        message: Message of the service.
    """

    row: str
    reason: str
    message: str


@dataclasses.dataclass(slots=True)
class Results:
    """Counts of an output.

    Attributes:
        rows: Rows of the output.
        ok: Rows with an answer.
        usage: Tokens of all rows.
        failed: Rows without an answer, by ``STATUS/REASON``.
        errors: The first of them, for each reason.
    """

    rows: int = 0
    ok: int = 0
    usage: Usage = Usage()
    failed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    errors: list[RowError] = dataclasses.field(default_factory=list)

    def add(self, line: OutputLine) -> RowError | None:
        """Count a row; return its error, or None if it has an answer."""
        self.rows += 1
        answer = parse_any(line)
        self.usage += answer.usage
        if answer.ok:
            self.ok += 1
            return None
        reason = failure_key(answer.status.value, answer.reason)
        self.failed[reason] += 1
        row = line.key or next(iter(line.uris), "") or f"row {self.rows}"
        error = RowError(row, reason, answer.message or "")
        if self.failed[reason] <= EXAMPLES:
            self.errors.append(error)
        return error


def parse_any(line: OutputLine) -> Answer:
    """Parse a row of any request: text, JSON of any schema, or a vector."""
    response = line.response or {}
    if response.get("embedding") and not line.status:
        usage = mapping_of(response.get("usageMetadata"))
        tokens = integer_of(response.get("tokenCount")) or integer_of(usage.get("promptTokenCount")) or 0
        return Answer(Status.OK, usage=Usage(prompt_tokens=tokens))
    return parse_answer(line, ANY_ANSWER)


def collect(run: InputRun, job: BatchJob) -> dict[str, Any]:
    """Read the output of a job that has ended; return the summary of the run.

    The output itself is not changed. The rows without an answer are listed in ``errors.jsonl``.
    """
    found, output = Results(), find_output(run, job)
    with tempfile.TemporaryDirectory(prefix="imagebeam-") as name:
        errors = Path(name) / "errors.jsonl"
        with errors.open("wb") as file:
            for line in _lines(run, output, Path(name)):
                if (error := found.add(line)) is not None:
                    file.write(orjson.dumps(error) + b"\n")
        if found.failed:
            storage.upload(run.path("errors.jsonl"), errors)
    return build_summary(run, job, found, output)


def find_output(run: InputRun, job: BatchJob) -> str:
    """Return the directory or table of the output; empty if there is none."""
    if run.destination.startswith("bq://"):
        return job.output or run.destination
    return find_output_directory(job, run.destination) or ""


def _lines(run: InputRun, output: str, directory: Path) -> Iterator[OutputLine]:
    if output.startswith("bq://"):
        table = TableName.parse(output.removeprefix("bq://"), run.project)
        return read_table_lines(BigQueryClient(run.project), table)
    return read_file_lines(answer_files(output) if output else (), directory)


def build_summary(run: InputRun, job: BatchJob, found: Results, output: str) -> dict[str, Any]:
    """Return the summary of a run as JSON values."""
    prices: Mapping[str, Price] = {} if run.price is None else {Lane.BATCH: run.price}
    cost = cost_usd(ModelProfile(run.model, prices=prices), Lane.BATCH, found.usage)
    reported = (job.successful or 0) + (job.failed or 0)
    problems = []
    if job.successful is not None and reported != found.rows:
        problems.append(f"the service reports {reported:,} rows, the output has {found.rows:,}")
    return {
        "run_id": run.run_id,
        "succeeded": job.rule.step is Step.COLLECT,
        "canceled": state.is_canceled(run),
        "job": job.name,
        "display_name": run.display_name,
        "state": job.state,
        "error": job.error,
        "model": run.model,
        "location": run.location,
        "input": run.source,
        "output": output,
        "rows": found.rows,
        "ok": found.ok,
        "failed": dict(found.failed),
        "unfinished": job.incomplete,
        "usage": dataclasses.asdict(found.usage),
        "cost_usd": None if cost is None else str(cost),
        "errors": [dataclasses.asdict(error) for error in found.errors],
        "errors_file": run.path("errors.jsonl") if found.failed else None,
        "problems": problems,
        "created_at": run.created_at,
        "ended_at": utc_now(),
    }


def format_summary(summary: Mapping[str, Any]) -> list[str]:
    """Return the report of a run as lines: job, places, rows, errors, tokens, cost and how it ended."""
    usage, failed = summary["usage"], sum(summary["failed"].values())
    unfinished = summary["unfinished"] or 0
    lines = [
        f"run      {summary['run_id']}",
        f"job      {summary['job'] or 'none'}  {summary['state']}",
        f"input    {summary['input']}",
        f"output   {summary['output'] or 'none'}",
        f"rows     {summary['rows']:,}: {summary['ok']:,} OK, {failed:,} failed"
        + (f", {unfinished:,} not processed" if unfinished else ""),
        *_errors(summary["failed"], summary["errors"]),
        (
            f"tokens   {usage['prompt_tokens']:,} in ({usage['cached_tokens']:,} cached), "
            f"{usage['output_tokens']:,} out, {usage['thought_tokens']:,} thought"
        ),
        "cost     unknown: the models file has no price for this model; --price_as names another one"
        if summary["cost_usd"] is None
        else f"cost     ${float(summary['cost_usd']):,.4f} at list price",
    ]
    if summary["errors_file"]:
        lines.append(f"errors   {summary['errors_file']}")
    return [*lines, *summary["problems"], format_end(summary)]


def _errors(failed: Mapping[str, int], errors: Sequence[Mapping[str, str]]) -> Iterator[str]:
    for reason, count in sorted(failed.items()):
        yield f"{count:>12,} {reason}"
        for error in errors:
            if error["reason"] == reason:
                yield f"               {error['row']}: {error['message']}"


def format_end(summary: Mapping[str, Any]) -> str:
    """Return in one line how the run ended."""
    if summary["succeeded"]:
        if summary["rows"] and not summary["ok"]:
            return "no row has an answer"
        return "the job has ended"
    if summary["canceled"]:
        return "the job was canceled; finished rows are kept and billed"
    return f"the job did not succeed: {summary['error'] or summary['state']}; finished rows are kept and billed"


def exit_code(summary: Mapping[str, Any]) -> int:
    """Return the exit code of a run: 0, 5 if no row has an answer, 130 if it was canceled, 3 if the job failed."""
    if summary["succeeded"]:
        return 5 if summary["rows"] and not summary["ok"] else 0
    return 130 if summary["canceled"] or summary["state"] == "JOB_STATE_CANCELLED" else 3
