"""Where contestants meet: one local cloud on one core, the contestants on the others, in the same run.

What counts is what the server saw: it knows every unit by its object, so calls that were lost, repeated or
refused cannot hide.
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

from benchmarks.measuring import Result, Sample
from benchmarks.workload import BUCKET, Work, images_of, object_name
from imagebeam.emulators.cloud import LocalCloud

ROOT = Path(__file__).parent.parent
LOOK_S = 0.1
SIDE = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What the server saw of a bout.

    Attributes:
        calls: Calls that arrived.
        by_status: Answers by HTTP status; ``reset`` and ``499`` for broken lines.
        answered: Units that were answered.
        again: Answers about units that had been answered before: paid twice.
        max_in_flight: Calls at once, at most.
        tokens: Tokens of the answered calls.
        cpu_s: CPU of the server.
    """

    calls: int
    by_status: dict[str, int]
    answered: int
    again: int
    max_in_flight: int
    tokens: int
    cpu_s: float

    @property
    def refused(self) -> int:
        """429s."""
        return self.by_status.get("429", 0)

    @property
    def refused_share(self) -> float:
        """429s per call."""
        return self.refused / max(self.calls, 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """One look at the server's counters.

    Attributes:
        at: Clock of the machine, as in `measuring.Sample`.
        calls: Calls so far.
        refused: 429s so far.
        tokens: Tokens of finished calls so far.
    """

    at: float
    calls: int
    refused: int
    tokens: int

    @property
    def granted(self) -> int:
        """Calls let through so far."""
        return self.calls - self.refused


@dataclasses.dataclass(frozen=True, slots=True)
class Bout:
    """Results of contestants that ran at the same time, and what the server saw of them.

    Attributes:
        results: One per contestant.
        seen: The server's side.
        looks: Of the server's counters; only with a quota or steps.
        stepped_at: When the steps were taken, on the machine's clock.
    """

    results: tuple[Result, ...]
    seen: Seen
    looks: tuple[Look, ...]
    stepped_at: tuple[float, ...]

    @property
    def result(self) -> Result:
        """The only contestant's."""
        return self.results[0]

    @property
    def lost(self) -> int:
        """Units without an answer, as server and contestant agree; the worse of the two."""
        asked = sum(result.images for result in self.results)
        return asked - min(self.seen.answered, sum(result.ok for result in self.results))

    @property
    def began_at(self) -> float:
        """When the first call was seen."""
        return next(look.at for look in self.looks if look.calls)

    @property
    def last_grant_at(self) -> float:
        """When the last call was let through."""
        most = max(look.granted for look in self.looks)
        return next(look.at for look in self.looks if look.granted >= most)

    def between(self, start: float, end: float) -> tuple[Look, Look]:
        """The looks next to two times of the machine's clock."""
        return (
            min(self.looks, key=lambda look: abs(look.at - start)),
            min(self.looks, key=lambda look: abs(look.at - end)),
        )


class Arena:
    """Runs contestants against one local cloud.

    Args:
        units: How many units there are pictures for.
        fresh: A new process per contestant, as is right; False reuses processes, to be quick.
    """

    def __init__(self, units: int, *, fresh: bool = True) -> None:
        self._units = units
        self._fresh = fresh
        self._idle: list[_Process] = []
        self._directory = tempfile.TemporaryDirectory(prefix="imagebeam-arena-")
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._before = set(cores)
        self.pinned = len(cores) > 1
        self._server_cores, self._cores = (cores[:1], cores[1:]) if self.pinned else ([], [])
        self.cloud = LocalCloud(Path(self._directory.name))

    def __enter__(self) -> Self:
        if self.pinned:
            os.sched_setaffinity(0, self._server_cores)  # the server inherits it; this process only looks on
        self.cloud.start()
        self._draw()
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

    def _draw(self) -> None:
        """One small picture under many names: objects that exist, at no cost."""
        bucket = Path(self._directory.name) / "storage" / BUCKET
        bucket.mkdir(parents=True)
        picture = Path(self._directory.name) / "picture.jpg"
        Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(picture)
        for number in range(self._units):
            for index in range(images_of(number, mixed=True)):
                path = bucket / object_name(number, index)
                path.parent.mkdir(exist_ok=True)
                os.link(picture, path)

    def run(self, *works: Work, faults: dict[str, Any] | None = None, steps: Sequence[Step] = ()) -> Bout:
        """Runs contestants at the same time.

        Args:
            works: What each is to do.
            faults: How the local Vertex AI behaves.
            steps: Changes of that while they run.
        """
        if any(work.first + work.units > self._units for work in works):
            raise ValueError("there are not so many pictures")
        processes = [self._process() for _ in works]
        for process, work in zip(processes, works, strict=True):
            process.prepare(work)
        for process in processes:
            process.ready()
        self.cloud.reset()
        self.cloud.faults(vertex=faults or {})
        used = self._server_cpu_s()
        with _Looking(self.cloud, steps, often=bool(steps or (faults or {}).get("quota"))) as looking:
            for process in processes:
                process.go()
            results = tuple(process.result() for process in processes)
        seen = self._seen(self._server_cpu_s() - used)
        for process in processes:
            if self._fresh:
                process.close()
            else:
                self._idle.append(process)
        return Bout(results, seen, tuple(looking.looks), tuple(looking.stepped_at))

    def _process(self) -> _Process:
        return self._idle.pop() if self._idle else _Process(self._cores, self._environment)

    def _seen(self, cpu_s: float) -> Seen:
        vertex = self.cloud.counters().get("vertex", {})
        answered: dict[str, int] = vertex.get("answered_per_uri", {})
        # Every image of a unit counts; its first one stands for it.
        units = {uri: times for uri, times in answered.items() if uri.endswith("_0.jpg")}
        return Seen(
            calls=vertex.get("calls", 0),
            by_status=vertex.get("by_status", {}),
            answered=len(units),
            again=sum(units.values()) - len(units),
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
class Step:
    """A change of the server's behaviour.

    Attributes:
        after_s: Seconds after the first call.
        faults: The behaviour from then on.
    """

    after_s: float
    faults: dict[str, Any]


class _Looking:
    """Looks at the server's counters while contestants run, and changes its behaviour as planned."""

    def __init__(self, cloud: LocalCloud, steps: Sequence[Step], *, often: bool) -> None:
        self._cloud = cloud
        self._steps = list(steps)
        self._often = often
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks: list[Look] = []
        self.stepped_at: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        if not self._often:
            return  # a look costs the server time that it should spend on calls
        began: float | None = None
        while not self._over.wait(LOOK_S):
            vertex = self._cloud.counters().get("vertex", {})
            look = Look(
                time.monotonic(),
                vertex.get("calls", 0),
                vertex.get("by_status", {}).get("429", 0),
                vertex.get("tokens", 0),
            )
            self.looks.append(look)
            if began is None and look.calls:
                began = look.at
            while self._steps and began is not None and look.at - began >= self._steps[0].after_s:
                self._cloud.faults(vertex=self._steps.pop(0).faults)
                self.stepped_at.append(time.monotonic())


class _Process:
    """A contestant's process, see `contestant`."""

    def __init__(self, cores: Sequence[int], environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.contestant", ",".join(map(str, cores))]
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
        """Gives it its work."""
        self._write(json.dumps(dataclasses.asdict(work)))

    def ready(self) -> None:
        """Waits until it is ready."""
        self._read()

    def go(self) -> None:
        """Lets it begin."""
        self._write("go")

    def result(self) -> Result:
        """Waits for its result."""
        told = self._read()
        samples = tuple(Sample(**sample) for sample in told.pop("samples"))
        return Result(samples=samples, **told)

    def close(self) -> None:
        """Ends it."""
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
            raise RuntimeError("a contestant failed:\n" + self._errors.read().decode("utf-8", "replace")[-4000:])
        return cast("dict[str, Any]", json.loads(line))


def _pipe(stream: Any) -> Any:
    assert stream is not None  # noqa: S101  (all streams are pipes)
    return stream
