"""The result of a run of classify or embed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from imagebeam.pipeline.console import report
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.pages.cards import Card, escape, escape_lines, render_cards, render_fragment, render_table
from imagebeam.pipeline.pages.thumbnails import NOTEBOOK_PX, load_thumbnails
from imagebeam.pipeline.results.frames import query_frame
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts, counts_from_json
from imagebeam.transforms.core.errors import ImagebeamError, ReconciliationError, SystemicError, UserError
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.text import format_usd
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.selected_units import build_selected_units_query

if TYPE_CHECKING:
    import pandas

#: Units that a notebook shows with their images.
SHOWN_UNITS: Final = 12
#: Longest text of a field in a notebook.
_FIELD_CHARS: Final = 300


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of a run of classify or embed. A notebook shows its counts, and some images with their answers.

    Attributes:
        run: Settings of the run.
        exit_code: Exit code of the command: 0 ok, 4 budget, 5 too many failures, 130 interrupted. An embedded
            application can treat anything but 0 as "run again to continue".
        took_s: Seconds that the call took.
        statements: SQL of a run with ``dry_run``; empty for any other.
        recorded_summary: The summary, if the run had ended when the call returned.
    """

    run: RunSettings
    exit_code: int = 0
    took_s: float = 0.0
    statements: tuple[str, ...] = ()
    recorded_summary: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.run.run_id

    @property
    def ended(self) -> bool:
        """Whether the run has ended. A run on Dataflow, or with ``no_wait``, continues after the call."""
        return self._read_summary() is not None

    @property
    def summary(self) -> Mapping[str, Any]:
        """The summary of the run, as in its file ``summary.json``.

        Raises:
            UserError: The run has not ended.
        """
        summary = self._read_summary()
        if summary is None:
            raise UserError(f"run {self.run_id} has not ended; its summary will be in {self.run.summary_path}")
        return summary

    @property
    def counts(self) -> OutcomeCounts:
        """Outcomes of the run: OK, failed by reason, skipped, calls, tokens.

        Raises:
            UserError: The run has not ended.
        """
        return counts_from_json(self.summary["counted"])

    @property
    def source(self) -> SourceCounts:
        """Units of the source by state at the start of the run.

        Raises:
            UserError: The run has not ended.
        """
        return SourceCounts(**self.summary["source"])

    @property
    def cost_usd(self) -> Decimal | None:
        """Cost of the run in US dollars at list price, as recorded in the table of outcomes; None if it is unknown.

        Raises:
            UserError: The run has not ended.
        """
        return counts_from_json(self.summary["recorded"]).cost_usd

    @property
    def stop(self) -> str | None:
        """Why the run stopped early, such as ``budget: …`` or ``interrupted: SIGINT``; None if it did not.

        Raises:
            UserError: The run has not ended.
        """
        return counts_from_json(self.summary["counted"]).stop

    def to_dataframe(self) -> pandas.DataFrame:
        """Query the units that the run selected, each with its answer: one row per unit, ordered by ``unit_id``.

        Units that were already answered before the run are included, so that calling the same function again returns
        the same rows. Every call of this method runs a query.

        Returns:
            Columns ``unit_id``, ``status``, ``reason``, ``message``, those that describe the unit, one per field of
            the answer (``vector`` for embeddings), those of ``keep_columns``, ``image_uris``, ``version``, ``model``,
            ``lane``, ``attempts``, ``cost_usd``, ``latency_ms``, ``run_id`` and ``answered_at``. A column with the name
            of a field of the answer is prefixed with an underscore.

        Raises:
            UserError: pandas is not installed: ``pip install 'imagebeam[pandas]'``.
            SystemicError: BigQuery cannot be used.
        """
        return query_frame(
            self._bq, self._units_query(), location=self.run.location,
            maximum_bytes_billed=self.run.maximum_bytes_billed,
        )  # fmt: skip

    def raise_for_stop(self) -> RunResult:
        """Return the result if its answers can be relied on.

        Raises:
            ReconciliationError: The counts do not reconcile.
            SystemicError: A systemic failure stopped the run: credentials, permissions, model.
        """
        problem: ImagebeamError
        if self.exit_code == ReconciliationError.exit_code:
            problem = ReconciliationError(report.format_state(self.summary))
        elif self.exit_code == SystemicError.exit_code:
            problem = SystemicError(report.format_state(self.summary))
        else:
            return self
        problem.add_note(str(self))
        raise problem

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the counts, and the first units with their images and answers."""
        return self._html

    @property
    def _bq(self) -> BigQueryClient:
        return BigQueryClient(self.run.engine.call_settings.project)

    def _read_summary(self) -> Mapping[str, Any] | None:
        return self.recorded_summary if self.recorded_summary is not None else read_json(self.run.summary_path)

    def _lines(self) -> list[str]:
        if self.statements:
            return list(self.statements)
        summary = self._read_summary()
        if summary is None:
            return [f"run {self.run_id} was submitted; its summary will be in {self.run.summary_path}"]
        return [
            *report.format_report(summary, self.run.outcomes, took_s=self.took_s),
            report.format_state(summary),
        ]

    def _units_query(self, limit: int | None = None) -> Query:
        run = self.run
        vectors = None if run.task.vector_dimension is None else run.answers
        return build_selected_units_query(run.query_spec(), run.task.columns(), vectors=vectors, limit=limit)

    @cached_property
    def _html(self) -> str:
        if self.statements or not self.ended:
            return render_fragment(f"<pre>{escape_lines(self._lines())}</pre>")
        task = self.run.task
        parts = [
            f"<h1>{escape(task.name)}</h1>",
            f'<p class="about">{escape(f"version {task.version}, {task.model}, run {self.run_id}")}</p>',
            render_table(("", "units"), map(_split_count, self.summary["counts"])),
            f"<p>{escape(self._cost_line())}</p>",
            f"<p>{escape(report.format_state(self.summary))}</p>",
        ]
        try:
            parts.append(self._cards())
        except ImagebeamError as problem:  # the result is still worth showing
            parts.append(f'<p class="about">{escape(f"no images: {problem}")}</p>')
        return render_fragment(*parts)

    def _cost_line(self) -> str:
        calls, usd = self.counts.calls, self.cost_usd
        cost = "cost unknown" if usd is None else f"{format_usd(usd)} at list price"
        return f"{calls:,} call{'' if calls == 1 else 's'} in {self.took_s:.1f} s, {cost}"

    def _cards(self) -> str:
        fields = [found.name for found in self.run.task.columns()]
        rows = self._bq.query_rows(
            self._units_query(SHOWN_UNITS), location=self.run.location,
            maximum_bytes_billed=self.run.maximum_bytes_billed,
        )  # fmt: skip
        taken = {name.lower() for name in fields}
        shown = ("status", "reason", "message", "map_url", "image_uris")
        plain = {name: "_" * (name in taken) + name for name in shown}
        found = [{name: row[column] for name, column in plain.items()} for row in rows]
        newest = [row["image_uris"][-1] if row["image_uris"] else None for row in found]
        pictures = load_thumbnails(newest, NOTEBOOK_PX)
        return render_cards(
            Card(
                title=str(facts["status"] or "no answer yet"),
                note=str(facts["reason"] or ""),
                fields={
                    **({} if facts["status"] == "OK" else {"message": _shorten(facts["message"])}),
                    **{name: _shorten(row[name]) for name in fields if facts["status"] == "OK"},
                    "unit_id": row["unit_id"],
                },
                picture=picture,
                link=facts["map_url"],
                name=str(row["unit_id"]),
            )
            for row, facts, picture in zip(rows, found, pictures, strict=True)
        )


def ended_run(
    run: RunSettings, summary: Mapping[str, Any], *, took_s: float, max_failure_percent: float | None
) -> RunResult:
    """Return the result of a run that has ended."""
    code = report.exit_code(summary, max_failure_percent)
    return RunResult(run, code, took_s, recorded_summary=summary)


def print_result(result: RunResult, *, as_json: bool) -> None:
    """Print the result as the commands do: the report or, as JSON, the summary; nothing for a run that continues."""
    console = Console()
    if result.recorded_summary is not None and as_json:
        console.print_json(result.recorded_summary)
    elif result.recorded_summary is not None or result.statements:
        console.print(*result._lines())


def _split_count(line: str) -> tuple[str, int]:
    """Split a line of the counts into name and number."""
    number, _, name = line.strip().partition(" ")
    return "selected" if name == "in" else name, int(number.replace(",", ""))


def _shorten(value: object) -> object:
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or None
    text = "" if value is None else str(value)
    return value if len(text) <= _FIELD_CHARS else f"{text[:_FIELD_CHARS]} …"
