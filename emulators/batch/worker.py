"""Run batch jobs, each in its own thread, from PENDING to the final state."""

import functools
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from imagebeam.emulators.batch.answers import LineHandler
from imagebeam.emulators.batch.data.importer import ImportedFile, JobImportError, import_lines
from imagebeam.emulators.batch.data.output import GcsOutput, Output, write_forbidden
from imagebeam.emulators.batch.data.rows import InputRow, RowCounts, RowRunner
from imagebeam.emulators.batch.data.tables import TableOutput, TableSource, columns_of
from imagebeam.emulators.batch.faults import BatchFaults
from imagebeam.emulators.batch.jobs import Job
from imagebeam.emulators.batch.requests import GcsFile, max_lines
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

#: Rows that are processed, shuffled and written together.
CHUNK_ROWS: Final = 5_000
#: The same for vectors, which take more memory.
VECTOR_CHUNK_ROWS: Final = 500
#: Maximum number of jobs that run at the same time.
MAX_RUNNING_JOBS: Final = 2
#: Maximum number of URIs with a counter of their own.
COUNTED_URIS: Final = 50_000

_RPC_CODES: Final = {400: 3, 403: 7, 404: 5}
_EXPIRED: Final = {"code": 4, "message": "The job has expired: it was not finished within the time limit."}
_INTERNAL: Final = {"code": 13, "message": "INTERNAL"}


@dataclass(frozen=True, slots=True)
class Source:
    """An imported input: its rows, their number, and its columns as a table."""

    rows: Iterator[InputRow]
    total: int
    fields: tuple[Field, ...]


class _DiscardedError(Exception):
    """The job was discarded."""


@dataclass(slots=True)
class JobWorker:
    """Runs jobs.

    Args:
        objects: Cloud Storage.
        catalog: BigQuery.
        faults: The configured faults.
        counters: Branch ``batch``: ``rows``, ``paid``, ``paid_unwritten`` (billed rows without an output line), and
            billed rows by display name (``paid_per_name``), job ID (``paid_per_job``) and URI (``paid_per_uri``, the
            first 50,000 URIs; ``paid_uris``, the number of distinct and repeated URIs).
        seed: Seed of random decisions.
        handler: Returns the handler of a job's rows.
    """

    objects: ObjectStore
    catalog: Catalog
    faults: BatchFaults
    counters: Counters
    seed: int
    handler: Callable[[Job], LineHandler]
    _slots: threading.Semaphore = field(init=False, default_factory=lambda: threading.Semaphore(MAX_RUNNING_JOBS))
    _synthetic_slot: threading.Semaphore = field(init=False, default_factory=lambda: threading.Semaphore(1))

    def start(self, job: Job) -> None:
        """Run a job in a new thread."""
        threading.Thread(target=self._run_job, args=(job,), daemon=True, name=f"batch-{job.id}").start()

    def _run_job(self, job: Job) -> None:
        try:
            self._process(job)
        except _DiscardedError:
            return
        except JobImportError as problem:
            self._fail(job, 3, f"Failed to import data. {problem}")
        except ApiError as problem:
            self._fail(job, _RPC_CODES.get(problem.code, 13), problem.message)
        except Exception:
            LOG.exception("the batch job %s failed", job.name)
            self._fail(job, _INTERNAL["code"], str(_INTERNAL["message"]))

    def _fail(self, job: Job, code: Any, message: str) -> None:
        details = (job.faults.error or {}).get("details")
        job.end("FAILED", error={"code": code, "message": message} | ({"details": details} if details else {}))

    def _process(self, job: Job) -> None:
        faults = job.faults
        self._wait(job, "PENDING")
        if job.stopping:
            return self._cancelled(job, None)
        if faults.end == "EXPIRED" and not faults.share:
            return job.end("EXPIRED", error=faults.error or _EXPIRED)
        with ExitStack() as held:
            slot = held.enter_context(ExitStack())
            self._acquire_slot(job, slot)
            job.start()
            if job.stopping:
                return self._cancelled(job, None)
            source = self._source(job)
            output = self._output(job, source)
            held.callback(output.discard)
            with job.changed:
                job.output_info = output.info
            rows = self._rows(job)
            counts, goal = RowCounts(), round(source.total * faults.share)
            if faults.running_s or faults.stuck == "RUNNING":
                self._run(job, source, output, rows, goal // 2, counts)
                slot.close()
                self._wait(job, "RUNNING")
                self._acquire_slot(job, slot)
            self._run(job, source, output, rows, goal, counts)
            if job.discarded:
                raise _DiscardedError
            output.finish()
            stats = (counts.succeeded, counts.failed, source.total - counts.done)
            if job.stopping:
                return self._cancelled(job, stats)
            error = faults.error or {"EXPIRED": _EXPIRED, "FAILED": _INTERNAL}.get(faults.end)
            return job.end(faults.end, stats=stats, error=error)

    def _acquire_slot(self, job: Job, slot: ExitStack) -> None:
        """Wait for a free slot or until the job must stop."""
        # Synthetic jobs hold the interpreter lock, so two at once would only slow each other down.
        slots = self._synthetic_slot if self.faults.synthetic else self._slots
        while not job.stopping:
            if slots.acquire(timeout=0.1):
                slot.callback(slots.release)
                return

    def _cancelled(self, job: Job, stats: tuple[int, int, int] | None) -> None:
        if job.discarded:
            raise _DiscardedError
        with job.changed:
            job.changed.wait_for(lambda: job.discarded, job.faults.cancel_s)
        job.end("CANCELLED", stats=stats, error={"code": 1, "message": "CANCELED"})

    def _wait(self, job: Job, state: str) -> None:
        """Wait as long as the job's rules require and are still configured."""

        def waiting(passed: float) -> bool:
            faults = self.faults.active_faults(job.rules)
            return faults.stuck == state or passed < (faults.pending_s if state == "PENDING" else faults.running_s)

        job.wait_while(waiting)

    # Rows

    def _run(self, job: Job, source: Source, output: Output, rows: RowRunner, goal: int, counts: RowCounts) -> None:
        """Process rows until ``goal`` rows are done or the job must stop."""
        chunk_rows = VECTOR_CHUNK_ROWS if isinstance(job.spec.model, EmbeddingModel) else CHUNK_ROWS
        while counts.done < goal and not job.stopping:
            lines, chunk = rows.run(itertools.islice(source.rows, min(chunk_rows, goal - counts.done)))
            if job.discarded:
                raise _DiscardedError
            output.write(lines)
            counts.succeeded += chunk.succeeded
            counts.failed += chunk.failed
            job.rows_run += chunk.run
            self._count(job, chunk)

    def _count(self, job: Job, chunk: RowCounts) -> None:
        counters = self.counters
        counters.add("batch", "rows", amount=chunk.run)
        counters.add("batch", "paid", amount=chunk.paid)
        counters.add("batch", "paid_unwritten", amount=chunk.unwritten)
        counters.add("batch", "paid_per_name", job.spec.display_name, amount=chunk.paid)
        counters.add("batch", "paid_per_job", job.id, amount=chunk.paid)
        counters.add_names("batch", "paid_per_uri", names=chunk.uris, limit=COUNTED_URIS)
        counters.count_distinct("batch", "paid_uris", names=chunk.uris)

    def _rows(self, job: Job) -> RowRunner:
        return RowRunner(self.handler(job), job.spec.model, job.faults, job.spec.display_name, self.seed)

    # Input and output

    def _source(self, job: Job) -> Source:
        source = job.spec.source
        if isinstance(source, TableId):
            table = TableSource(self.catalog, source, self.faults.limits().lines)
            return Source(table.rows(), table.total, table.fields)
        opened = self.objects.open(source.bucket, source.name)
        if opened is None:
            raise JobImportError(f"Not found: {source.uri}.")
        stored, stream = opened
        limits = self.faults.limits(max_lines(job.spec.model))
        with stream:
            if stored.size > limits.bytes:
                raise JobImportError(f"The input has {stored.size} bytes: at most {limits.bytes} are supported.")
            imported = import_lines(stream, limits)
        return Source(self._lines(source, imported), imported.rows, columns_of(imported))

    def _lines(self, file: GcsFile, imported: ImportedFile) -> Iterator[InputRow]:
        """Read the file a second time, after all lines have been checked."""
        opened = self.objects.open(file.bucket, file.name)
        if opened is None:
            raise JobImportError(f"Not found: {file.uri}.")
        schema = imported.schema
        read = TemplateReader(schema).read if self.faults.synthetic else functools.partial(read_line, schema)
        with opened[1] as stream:
            for raw in itertools.islice((line for line in stream if not line.isspace()), imported.rows):
                yield read(raw)

    def _output(self, job: Job, source: Source) -> Output:
        faults, target = job.faults, job.spec.destination
        if isinstance(target, TableId):
            table = target.table or "predictions_" + "".join(sign if sign.isdigit() else "_" for sign in job.created)
            return TableOutput(self.catalog, TableId(target.project, target.dataset, table), source.fields)
        if faults.output_forbidden:
            raise write_forbidden(target.bucket, PROJECT_NUMBER)
        return GcsOutput(
            self.objects,
            target,
            job.created,
            shuffle=f"{self.seed}\0{job.spec.display_name}" if faults.shuffled else None,
            truncated=faults.truncated,
            incremental_only=faults.incremental_only,
        )
