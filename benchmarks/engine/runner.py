"""Runs implementations against one local cloud: the server on one core, the implementations on the others.

Results are based on the counters of the server, which identifies each unit by its object, so that lost, repeated and
refused calls are detected.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from PIL import Image

from benchmarks.engine.metrics import Result, Sample
from benchmarks.engine.workload import BUCKET, Work, images_of, object_name
from imagebeam.emulators.cloud import LocalCloud

ROOT = Path(__file__).parents[2]
SAMPLE_INTERVAL_S = 0.1
IMAGE_SIDE = 64


@dataclasses.dataclass(frozen=True, slots=True)
class ServerStats:
    """Counters of the server for a trial.

    Attributes:
        calls: Number of calls.
        by_status: Responses by HTTP status; ``reset`` and ``499`` for broken connections.
        answered: Answered units.
        repeated: Repeated answers about the same unit, which are paid twice.
        max_in_flight: Maximum number of concurrent calls.
        tokens: Tokens of the answered calls.
        cpu_s: CPU seconds of the server.
    """

    calls: int
    by_status: dict[str, int]
    answered: int
    repeated: int
    max_in_flight: int
    tokens: int
    cpu_s: float

    @property
    def refused(self) -> int:
        """Number of 429 responses."""
        return self.by_status.get("429", 0)

    @property
    def refused_share(self) -> float:
        """Number of 429 responses per call."""
        return self.refused / max(self.calls, 1)


@dataclasses.dataclass(frozen=True, slots=True)
class CounterSample:
    """A sample of the server's counters.

    Attributes:
        at: Monotonic time in seconds, as in `metrics.Sample`.
        calls: Calls so far.
        refused: 429 responses so far.
        tokens: Tokens of finished calls so far.
    """

    at: float
    calls: int
    refused: int
    tokens: int

    @property
    def granted(self) -> int:
        """Granted calls so far."""
        return self.calls - self.refused


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """Results of implementations that ran at the same time.

    Attributes:
        results: One result per implementation.
        server: Counters of the server.
        samples: Samples of the server's counters; only with a quota or fault changes.
        changed_at: Monotonic times of the fault changes.
    """

    results: tuple[Result, ...]
    server: ServerStats
    samples: tuple[CounterSample, ...]
    changed_at: tuple[float, ...]

    @property
    def result(self) -> Result:
        """The result of the only implementation."""
        return self.results[0]

    @property
    def lost(self) -> int:
        """Units without an answer: the larger number of those reported by the server and by the implementations."""
        total = sum(result.images for result in self.results)
        return total - min(self.server.answered, sum(result.ok for result in self.results))

    @property
    def first_call_at(self) -> float:
        """Time of the first sample with a call."""
        return next(sample.at for sample in self.samples if sample.calls)

    @property
    def last_granted_at(self) -> float:
        """Time of the last granted call."""
        most = max(sample.granted for sample in self.samples)
        return next(sample.at for sample in self.samples if sample.granted >= most)

    def between(self, start: float, end: float) -> tuple[CounterSample, CounterSample]:
        """Return the samples closest to two times."""
        return (
            min(self.samples, key=lambda sample: abs(sample.at - start)),
            min(self.samples, key=lambda sample: abs(sample.at - end)),
        )


class BenchmarkRunner:
    """Runs implementations against one local cloud.

    Args:
        units: Number of units with images.
        fresh: Whether to start a new process for each implementation; False reuses processes to save time.
    """

    def __init__(self, units: int, *, fresh: bool = True) -> None:
        self._units = units
        self._fresh = fresh
        self._idle: list[_WorkerProcess] = []
        self._directory = tempfile.TemporaryDirectory(prefix="imagebeam-benchmark-")
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._before = set(cores)
        self.pinned = len(cores) > 1
        self._server_cores, self._cores = (cores[:1], cores[1:]) if self.pinned else ([], [])
        self.cloud = LocalCloud(Path(self._directory.name))

    def __enter__(self) -> Self:
        if self.pinned:
            os.sched_setaffinity(0, self._server_cores)  # inherited by the server; this process is idle
        self.cloud.start()
        self._create_images()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "CLOUDSDK_"))},
            **self.cloud.environment,
            "PYTHONWARNINGS": "ignore",
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._idle:
            process.close()
        self.cloud.stop()
        self._directory.cleanup()
        if self.pinned:
            os.sched_setaffinity(0, self._before)

    def _create_images(self) -> None:
        """Create the objects: hard links to one small image."""
        bucket = Path(self._directory.name) / "storage" / BUCKET
        bucket.mkdir(parents=True)
        image = Path(self._directory.name) / "image.jpg"
        Image.linear_gradient("L").resize((IMAGE_SIDE, IMAGE_SIDE)).convert("RGB").save(image)
        for number in range(self._units):
            for index in range(images_of(number, mixed=True)):
                path = bucket / object_name(number, index)
                path.parent.mkdir(exist_ok=True)
                os.link(image, path)

    def run(self, *works: Work, faults: dict[str, Any] | None = None, changes: Sequence[FaultChange] = ()) -> Trial:
        """Run implementations at the same time.

        Args:
            works: The work of each.
            faults: Faults of the local Vertex AI.
            changes: Changes of the faults during the run.
        """
        if any(work.first + work.units > self._units for work in works):
            raise ValueError(f"there are images for {self._units} units only")
        processes = [self._process() for _ in works]
        for process, work in zip(processes, works, strict=True):
            process.prepare(work)
        for process in processes:
            process.ready()
        self.cloud.reset()
        self.cloud.faults(vertex=faults or {})
        used = self._server_cpu_s()
        with _CounterSampler(self.cloud, changes, enabled=bool(changes or (faults or {}).get("quota"))) as sampler:
            for process in processes:
                process.go()
            results = tuple(process.result() for process in processes)
        server = self._server_stats(self._server_cpu_s() - used)
        for process in processes:
            if self._fresh:
                process.close()
            else:
                self._idle.append(process)
        return Trial(results, server, tuple(sampler.samples), tuple(sampler.changed_at))

    def _process(self) -> _WorkerProcess:
        return self._idle.pop() if self._idle else _WorkerProcess(self._cores, self._environment)

    def _server_stats(self, cpu_s: float) -> ServerStats:
        vertex = self.cloud.counters().get("vertex", {})
        answered: dict[str, int] = vertex.get("answered_per_uri", {})
        # Every image of a unit is counted. The first one represents the unit.
        units = {uri: times for uri, times in answered.items() if uri.endswith("_0.jpg")}
        return ServerStats(
            calls=vertex.get("calls", 0),
            by_status=vertex.get("by_status", {}),
            answered=len(units),
            repeated=sum(units.values()) - len(units),
            max_in_flight=vertex.get("max_in_flight", 0),
            tokens=vertex.get("tokens", 0),
            cpu_s=cpu_s,
        )

    def _server_cpu_s(self) -> float:
        stat = Path(f"/proc/{json.loads((Path(self._directory.name) / 'local.json').read_text())['pid']}/stat")
        if not stat.exists():
            return 0.0
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True, slots=True)
class FaultChange:
    """A change of the server's faults.

    Attributes:
        after_s: Seconds after the first call.
        faults: The new faults.
    """

    after_s: float
    faults: dict[str, Any]


class _CounterSampler:
    """Samples the server's counters during a trial and applies the fault changes."""

    def __init__(self, cloud: LocalCloud, changes: Sequence[FaultChange], *, enabled: bool) -> None:
        self._cloud = cloud
        self._steps = list(changes)
        self._enabled = enabled
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[CounterSample] = []
        self.changed_at: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        if not self._enabled:
            return  # sampling takes server time
        began: float | None = None
        while not self._stopped.wait(SAMPLE_INTERVAL_S):
            vertex = self._cloud.counters().get("vertex", {})
            sample = CounterSample(
                time.monotonic(),
                vertex.get("calls", 0),
                vertex.get("by_status", {}).get("429", 0),
                vertex.get("tokens", 0),
            )
            self.samples.append(sample)
            if began is None and sample.calls:
                began = sample.at
            while self._steps and began is not None and sample.at - began >= self._steps[0].after_s:
                self._cloud.faults(vertex=self._steps.pop(0).faults)
                self.changed_at.append(time.monotonic())


class _WorkerProcess:
    """The process of an implementation, see `worker_process`."""

    def __init__(self, cores: Sequence[int], environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.engine.worker_process", ",".join(map(str, cores))]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        self._process = subprocess.Popen(  # noqa: S603  (our own module)
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def prepare(self, work: Work) -> None:
        """Send the work."""
        self._write(json.dumps(dataclasses.asdict(work)))

    def ready(self) -> None:
        """Wait until the process is ready."""
        self._read()

    def go(self) -> None:
        """Start the work."""
        self._write("go")

    def result(self) -> Result:
        """Wait for the result."""
        document = self._read()
        samples = tuple(Sample(**sample) for sample in document.pop("samples"))
        return Result(samples=samples, **document)

    def close(self) -> None:
        """Stop the process."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _pipe(self._process.stdout).close()
        self._errors.close()

    def _write(self, line: str) -> None:
        stream = _pipe(self._process.stdin)
        stream.write(line.encode() + b"\n")
        stream.flush()

    def _read(self) -> dict[str, Any]:
        line = _pipe(self._process.stdout).readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError("an implementation failed:\n" + self._errors.read().decode("utf-8", "replace")[-4000:])
        return cast("dict[str, Any]", json.loads(line))


def _pipe(stream: Any) -> Any:
    assert stream is not None  # noqa: S101  (all streams are pipes)
    return stream
