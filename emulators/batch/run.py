"""The life of a batch job, from PENDING to its last state, in a thread of its own."""

import functools
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from imagebeam.emulators.batch.answers import LineHandler
from imagebeam.emulators.batch.data.importer import Imported, ImportFailed, import_lines
from imagebeam.emulators.batch.data.output import GcsOutput, Output, forbidden
from imagebeam.emulators.batch.data.rows import InputRow, RowRunner, Tally
from imagebeam.emulators.batch.data.tables import TableOutput, TableSource, columns_of
from imagebeam.emulators.batch.faults import BatchFaults
from imagebeam.emulators.batch.jobs import Job
from imagebeam.emulators.batch.requests import GcsFile, most_lines
from imagebeam.emulators.batch.templates import TemplateReader, read_line
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.types import Field
from imagebeam.emulators.core.access import PROJECT_NUMBER
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel

LOG: Final = logging.getLogger(__name__)

#: Rows that are run, shuffled and written together.
CHUNK: Final = 5_000
#: The same of vectors, which are long.
VECTOR_CHUNK: Final = 500
#: Jobs that work at the same time; the others wait.
AT_ONCE: Final = 2
#: URIs that are counted one by one.
COUNTED_URIS: Final = 50_000

_RPC_CODES: Final = {400: 3, 403: 7, 404: 5}
_EXPIRED: Final = {"code": 4, "message": "The job has expired: it was not finished within the time limit."}
_INTERNAL: Final = {"code": 13, "message": "INTERNAL"}


@dataclass(frozen=True, slots=True)
class Source:
    """An input that was imported: its rows, how many they are, and its columns as a table."""

    rows: Iterator[InputRow]
    total: int
    fields: tuple[Field, ...]


class _Forgotten(Exception):  # noqa: N818  (it is no error)
    """Nobody asks for the job any more."""


@dataclass(slots=True)
class Worker:
    """Moves jobs.

    Args:
        objects: Cloud Storage.
        catalog: BigQuery.
        faults: What goes wrong.
        counters: Branch ``batch``: ``rows``, ``paid``, ``paid_unwritten`` (paid, but without a line), and of what
            is paid ``paid_per_name`` (display name), ``paid_per_job`` (id), ``paid_per_uri`` (the first 50,000)
            and ``paid_uris`` (all).
        seed: Of what chance decides.
        handler: Returns who answers the rows of a job that begins to run.
    """

    objects: ObjectStore
    catalog: Catalog
    faults: BatchFaults
    counters: Counters
    seed: int
    handler: Callable[[Job], LineHandler]
    _slots: threading.Semaphore = field(init=False, default_factory=lambda: threading.Semaphore(AT_ONCE))
    _rehearsing: threading.Semaphore = field(init=False, default_factory=lambda: threading.Semaphore(1))

    def start(self, job: Job) -> None:
        """Begin to move a job."""
        threading.Thread(target=self._live, args=(job,), daemon=True, name=f"batch-{job.id}").start()

    def _live(self, job: Job) -> None:
        try:
            self._move(job)
        except _Forgotten:
            return
        except ImportFailed as problem:
            self._fail(job, 3, f"Failed to import data. {problem}")
        except ApiError as problem:
            self._fail(job, _RPC_CODES.get(problem.code, 13), problem.message)
        except Exception:
            LOG.exception("the batch job %s failed", job.name)
            self._fail(job, _INTERNAL["code"], str(_INTERNAL["message"]))

    def _fail(self, job: Job, code: Any, message: str) -> None:
        details = (job.faults.error or {}).get("details")
        job.end("FAILED", error={"code": code, "message": message} | ({"details": details} if details else {}))

    def _move(self, job: Job) -> None:
        faults = job.faults
        self._wait(job, "PENDING")
        if job.stopping:
            return self._cancelled(job, None)
        if faults.end == "EXPIRED" and not faults.share:
            return job.end("EXPIRED", error=faults.error or _EXPIRED)
        with ExitStack() as held:
            slot = held.enter_context(ExitStack())
            self._take_slot(job, slot)
            job.start()
            if job.stopping:
                return self._cancelled(job, None)
            source = self._source(job)
            output = self._output(job, source)
            held.callback(output.discard)
            with job.changed:
                job.output_info = output.info
            rows = self._rows(job)
            tally, due = Tally(), round(source.total * faults.share)
            if faults.running_s or faults.stuck == "RUNNING":
                self._run(job, source, output, rows, due // 2, tally)
                slot.close()
                self._wait(job, "RUNNING")
                self._take_slot(job, slot)
            self._run(job, source, output, rows, due, tally)
            if job.forgotten:
                raise _Forgotten
            output.finish()
            stats = (tally.succeeded, tally.failed, source.total - tally.done)
            if job.stopping:
                return self._cancelled(job, stats)
            error = faults.error or {"EXPIRED": _EXPIRED, "FAILED": _INTERNAL}.get(faults.end)
            return job.end(faults.end, stats=stats, error=error)

    def _take_slot(self, job: Job, slot: ExitStack) -> None:
        """Wait until there is room to work in, or the job is to stop."""
        # Nothing in a rehearsal lets go of the interpreter: two at once would only hinder each other.
        slots = self._rehearsing if self.faults.synthetic else self._slots
        while not job.stopping:
            if slots.acquire(timeout=0.1):
                slot.callback(slots.release)
                return

    def _cancelled(self, job: Job, stats: tuple[int, int, int] | None) -> None:
        if job.forgotten:
            raise _Forgotten
        with job.changed:
            job.changed.wait_for(lambda: job.forgotten, job.faults.cancel_s)
        job.end("CANCELLED", stats=stats, error={"code": 1, "message": "CANCELED"})

    def _wait(self, job: Job, state: str) -> None:
        """Wait as long as the job's rules want it, and stand in the book."""

        def waiting(passed: float) -> bool:
            faults = self.faults.standing(job.rules)
            return faults.stuck == state or passed < (faults.pending_s if state == "PENDING" else faults.running_s)

        job.wait_while(waiting)

    # Rows

    def _run(self, job: Job, source: Source, output: Output, rows: RowRunner, goal: int, tally: Tally) -> None:
        """Run rows until so many are done, or it is to stop."""
        most = VECTOR_CHUNK if isinstance(job.asked.model, EmbeddingModel) else CHUNK
        while tally.done < goal and not job.stopping:
            lines, chunk = rows.run(itertools.islice(source.rows, min(most, goal - tally.done)))
            if job.forgotten:
                raise _Forgotten
            output.write(lines)
            tally.succeeded += chunk.succeeded
            tally.failed += chunk.failed
            job.rows_run += chunk.run
            self._count(job, chunk)

    def _count(self, job: Job, chunk: Tally) -> None:
        counters = self.counters
        counters.add("batch", "rows", amount=chunk.run)
        counters.add("batch", "paid", amount=chunk.paid)
        counters.add("batch", "paid_unwritten", amount=chunk.unwritten)
        counters.add("batch", "paid_per_name", job.asked.display_name, amount=chunk.paid)
        counters.add("batch", "paid_per_job", job.id, amount=chunk.paid)
        counters.add_names("batch", "paid_per_uri", names=chunk.uris, limit=COUNTED_URIS)
        counters.count_distinct("batch", "paid_uris", names=chunk.uris)

    def _rows(self, job: Job) -> RowRunner:
        return RowRunner(self.handler(job), job.asked.model, job.faults, job.asked.display_name, self.seed)

    # Input and output

    def _source(self, job: Job) -> Source:
        asked = job.asked.source
        if isinstance(asked, TableId):
            table = TableSource(self.catalog, asked, self.faults.limits().lines)
            return Source(table.rows(), table.total, table.fields)
        opened = self.objects.open(asked.bucket, asked.name)
        if opened is None:
            raise ImportFailed(f"Not found: {asked.uri}.")
        stored, stream = opened
        limits = self.faults.limits(most_lines(job.asked.model))
        with stream:
            if stored.size > limits.bytes:
                raise ImportFailed(f"The input has {stored.size} bytes: at most {limits.bytes} are supported.")
            imported = import_lines(stream, limits)
        return Source(self._lines(asked, imported), imported.rows, columns_of(imported))

    def _lines(self, file: GcsFile, imported: Imported) -> Iterator[InputRow]:
        """Read the file a second time, now that all lines are known to be good."""
        opened = self.objects.open(file.bucket, file.name)
        if opened is None:
            raise ImportFailed(f"Not found: {file.uri}.")
        shape = imported.shape
        read = TemplateReader(shape).read if self.faults.synthetic else functools.partial(read_line, shape)
        with opened[1] as stream:
            for raw in itertools.islice((line for line in stream if not line.isspace()), imported.rows):
                yield read(raw)

    def _output(self, job: Job, source: Source) -> Output:
        faults, target = job.faults, job.asked.destination
        if isinstance(target, TableId):
            table = target.table or "predictions_" + "".join(sign if sign.isdigit() else "_" for sign in job.created)
            return TableOutput(self.catalog, TableId(target.project, target.dataset, table), source.fields)
        if faults.output_forbidden:
            raise forbidden(target.bucket, PROJECT_NUMBER)
        return GcsOutput(
            self.objects,
            target,
            job.created,
            shuffle=f"{self.seed}\0{job.asked.display_name}" if faults.shuffled else None,
            truncated=faults.truncated,
            incremental_only=faults.incremental_only,
        )
