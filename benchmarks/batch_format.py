"""How fast the batch lane writes and reads JSONL, beside the plainest way to do the same.

::

    python -m benchmarks.batch_format                    # about half a minute
    python -m benchmarks.batch_format --units 2000 --repeat 1  # does it all run? Says nothing about speed

Contestants take turns, chunk by chunk as a shard is streamed, and the best of several turns counts: on a
busy machine both suffer alike. Time is CPU time of this process. Plain pyarrow joins constant text, keys and
URIs and escapes nothing; the plain loop calls ``orjson.loads`` and looks at nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence

import orjson
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from benchmarks.workload import Work
from imagebeam.transforms.batch_lines import LineTemplate, key_of, line_template
from imagebeam.transforms.batch_matching import ShardMatcher
from imagebeam.transforms.batch_results import OutputLine, RowResult, classify, parse_line
from imagebeam.transforms.groups import pack, unpack
from imagebeam.transforms.records import Status, Unit

LABELS = {"imagebeam_run": "benchmark"}
JPEG = ("image/jpeg",)
#: Units per chunk of a shard that is written as it is made.
CHUNK = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class Race:
    """Two ways to do the same.

    Attributes:
        what: What is done.
        plain: The plain way; returns how many bytes or rows it handled.
        ours: imagebeam's; must return the same number.
        least: Speed of ours over the plain way's that is promised; None if nothing is.
    """

    what: str
    plain: Callable[[], int]
    ours: Callable[[], int]
    least: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What a race came to.

    Attributes:
        what: What was done.
        plain_us: CPU microseconds per unit of the plain way, at best.
        ours_us: Those of ours.
        ratio: Speed of ours over that of the plain way.
        least: What is promised of it; None if nothing is.
    """

    what: str
    plain_us: float
    ours_us: float
    ratio: float
    least: float | None


def main(argv: list[str] | None = None) -> int:
    """Runs the races; 0 whatever they say, because a slow machine is no error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_format", allow_abbrev=False)
    parser.add_argument("--units", type=int, default=20_000, help="units per turn")
    parser.add_argument("--repeat", type=int, default=9, help="turns of each contestant")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    results = [_measure(race, options.units, options.repeat) for race in races(Work("batch", options.units))]
    # Python's dicts have just grown at this size, and are at their emptiest: the most that a unit takes.
    overhead = unit_overhead(87_400)
    if options.json:
        document = {"races": [dataclasses.asdict(result) for result in results], "matcher_bytes_per_unit": overhead}
        sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        return 0
    sys.stdout.write(f"{'CPU time per unit':44}{'plain µs':>10}{'ours µs':>10}{'speed':>8}{'promised':>10}\n")
    for result in results:
        promised = "" if result.least is None else f"≥ {result.least}"
        times = f"{result.plain_us:>10.2f}{result.ours_us:>10.2f}{result.ratio:>8.2f}"
        sys.stdout.write(f"{result.what:44}{times}{promised:>10}\n")
    sys.stdout.write(f"\nThe matcher takes {overhead:.0f} bytes per unit beside the manifest (promised: ≤ 400).\n")
    return 0


def races(work: Work) -> list[Race]:
    """The races, over the same units."""
    units = work.all_units()
    chunks = [units[start : start + CHUNK] for start in range(0, len(units), CHUNK)]
    keys = [[_key(work, unit) for unit in chunk] for chunk in chunks]
    pages = [pack(chunk) for chunk in chunks]
    template = line_template(work.task, work.profile, LABELS)
    # What a shard is written into, over and over, as an upload does with its chunk.
    sink = io.BytesIO()
    plain = PlainLines(template, units[0], sink)
    manifest = [(_key(work, unit), unit.unit_id.encode()) for unit in units]
    outputs = [output_line(key, template, unit) for (key, _), unit in zip(manifest, units, strict=True)]
    judge = functools.partial(classify, task=work.task, profile=work.profile)

    def plainly(chunk: Sequence[Unit]) -> int:
        return plain.join(chunk, [_key(work, unit) for unit in chunk])

    def ours(chunk: Sequence[Unit]) -> int:
        sink.seek(0)
        for unit in chunk:
            sink.write(template.line(_key(work, unit), unit, JPEG))
        return sink.tell()

    def ours_with_keys(chunk: Sequence[Unit], known: Sequence[str]) -> int:
        sink.seek(0)
        for key, unit in zip(known, chunk, strict=True):
            sink.write(template.line(key, unit, JPEG))
        return sink.tell()

    def from_pages(write: Callable[[Sequence[Unit]], int]) -> int:
        return sum(write(unpack(page)) for page in pages)

    return [
        Race("build lines", lambda: sum(map(plainly, chunks)), lambda: sum(map(ours, chunks)), 0.4),
        Race(
            "build lines, keys given to both",
            lambda: sum(map(plain.join, chunks, keys)),
            lambda: sum(map(ours_with_keys, chunks, keys)),
            None,
        ),
        Race("build lines from packed groups of units", lambda: from_pages(plainly), lambda: from_pages(ours), None),
        Race("parse lines", lambda: _loads(outputs), lambda: _parse(outputs, None), 0.5),
        Race("parse and judge lines", lambda: _loads(outputs), lambda: _parse(outputs, judge), None),
        Race("parse, judge and match", lambda: _loads(outputs), lambda: _match(manifest, outputs, judge), None),
    ]


class PlainLines:
    """Lines by plain pyarrow string building: constant text, a column of keys, a column of URIs."""

    def __init__(self, template: LineTemplate, unit: Unit, sink: io.BytesIO) -> None:
        self._sink = sink
        line = template.line("KEY", unit, JPEG).decode()
        self._before, _, rest = line.partition("KEY")
        self._between, _, self._after = rest.partition(str(unit.images[0].uri))

    def join(self, units: Sequence[Unit], keys: Sequence[str]) -> int:
        """Builds the lines of some units; returns their bytes."""
        uris = pa.array([unit.images[0].uri for unit in units])
        lines = pc.binary_join_element_wise(self._before, pa.array(keys), self._between, uris, self._after, "")
        self._sink.seek(0)
        self._sink.write(lines.buffers()[2])
        return self._sink.tell()


def output_line(key: str, template: LineTemplate, unit: Unit) -> bytes:
    """What a job writes about a unit: the key, the echoed request and an answer that fits the shipped task."""
    looks = {"sharpness": "sharp", "exposure": "normal", "colourfulness": "muted", "dominant_colour": "grey"}
    answer = {**looks, "reason": "Fine detail is crisp and nothing is covered.", "usable": True, "quality_score": 0.93}
    content = {"role": "model", "parts": [{"text": json.dumps(answer)}]}
    request = orjson.loads(template.request(unit, JPEG))
    # The shortest rendering of the echo that was seen: a longer one only helps the plain loop's rival.
    parts = [{"fileData": None, "text": None, **part} for part in request["contents"][0]["parts"]]
    return orjson.dumps(
        {
            "custom_id": key,
            "status": "",
            "processed_time": "2026-11-20T10:13:16.826+00:00",
            "request": {"contents": [{"role": "user", "parts": parts}]},
            "response": {
                "candidates": [{"content": content, "finishReason": "STOP", "avgLogprobs": -0.57}],
                "modelVersion": "gemini",
                "usageMetadata": {"promptTokenCount": 480, "candidatesTokenCount": 80, "totalTokenCount": 560},
            },
        }
    )


def unit_overhead(units: int) -> float:
    """Bytes per unit that a matcher takes beside the manifest's lines, once every unit is answered."""
    names = [f"o1:{number:032x}" for number in range(units)]
    answered = RowResult(Status.OK, answer={})
    tracemalloc.start()
    try:
        matcher = ShardMatcher(((key_of(name, "d", "v"), b"") for name in names), lambda _: answered, lambda _: ())
        for name in names:
            matcher.feed_line(OutputLine(b"", key_of(name, "d", "v")))
        return tracemalloc.get_traced_memory()[0] / units
    finally:
        tracemalloc.stop()


def _key(work: Work, unit: Unit) -> str:
    return key_of(unit.unit_id, unit.input_digest, work.task.version)


def _loads(lines: Sequence[bytes]) -> int:
    rows = 0
    for line in lines:
        rows += orjson.loads(line) is not None
    return rows


def _parse(lines: Sequence[bytes], judge: Callable[[OutputLine], RowResult] | None) -> int:
    rows = 0
    for raw in lines:
        line = parse_line(raw)
        rows += line.key is not None if judge is None else judge(line).ok
    return rows


def _match(
    manifest: Sequence[tuple[str, bytes]], lines: Sequence[bytes], judge: Callable[[OutputLine], RowResult]
) -> int:
    matcher = ShardMatcher(manifest, judge, lambda _: ())
    for line in lines:
        matcher.feed(line)
    return matcher.counts.ok


def _measure(race: Race, units: int, repeat: int) -> Result:
    best = {"plain": float("inf"), "ours": float("inf")}
    for _ in range(repeat):
        handled = set()
        for name, run in (("plain", race.plain), ("ours", race.ours)):
            began = time.process_time()
            handled.add(run())
            best[name] = min(best[name], time.process_time() - began)
        if len(handled) != 1:
            raise AssertionError(f"{race.what}: the contestants did not do the same: {handled}")
    plain_us, ours_us = (1e6 * best[name] / units for name in ("plain", "ours"))
    return Result(race.what, plain_us, ours_us, plain_us / ours_us, race.least)


if __name__ == "__main__":
    sys.exit(main())
