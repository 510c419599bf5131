"""CPU time of writing and reading JSONL in the batch lane, compared with a minimal implementation.

::

    python -m benchmarks.batch_format                          # about a minute
    python -m benchmarks.batch_format --write docs/benchmarks-batch.md    # also update the page
    python -m benchmarks.batch_format --units 2000 --repeat 1  # only checks that it runs

Both implementations run alternately in chunks, as shards are streamed, and the fastest of several runs counts. Time is
the CPU time of this process. The minimal writer joins constant text, keys and URIs with pyarrow, without escaping;
the minimal reader only calls ``orjson.loads``. With pages, both read the same rows from a local BigQuery with the same
client.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import itertools
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.batch_report import machine, marked
from benchmarks.engine.workload import Work
from benchmarks.environment import local_cloud
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Answer, Status, Unit
from imagebeam.transforms.core.unit_batch import pack, unpack
from imagebeam.transforms.gemini.batch_matching import ShardMatcher
from imagebeam.transforms.gemini.batch_requests import LineTemplate, key_of, line_template
from imagebeam.transforms.gemini.batch_responses import OutputLine, parse_answer, parse_line
from imagebeam.transforms.sql.unit_rows import UNIT_COLUMNS, unit_from_row

LABELS = {"imagebeam_run": "benchmark"}
JPEG = ("image/jpeg",)
#: Units per chunk of a shard that is written as it is made.
CHUNK = 2000

# Result of the source query of a run, without the source.
_RESULT = """
SELECT
  unit_id, 'observation' AS unit_type, TO_HEX(SHA256(unit_id)) AS input_digest,
  [STRUCT(
    unit_id AS observation_id, FORMAT('gs://benchmark-images/%03d/%06d_0.jpg', DIV(number, 1000), number) AS uri,
    TIMESTAMP '2026-05-01 10:00:00+00' AS capture_time, 90.0 AS heading, CAST(NULL AS FLOAT64) AS pitch,
    CAST(NULL AS FLOAT64) AS roll, CAST(NULL AS FLOAT64) AS x0, CAST(NULL AS FLOAT64) AS y0,
    CAST(NULL AS FLOAT64) AS x1, CAST(NULL AS FLOAT64) AS y1)] AS images,
  FORMAT('t1:%032x', number) AS asset_id, 'ASSET_CLASS_UTILITY_POLE' AS asset_type,
  CAST(NULL AS STRING) AS snapshot_id, TIMESTAMP '2026-05-01 10:00:00+00' AS capture_time, 52.5 AS latitude,
  13.4 AS longitude, CAST(NULL AS STRING) AS map_url, CAST(NULL AS STRING) AS extra
FROM (
  SELECT number, FORMAT('o1:%032x', number) AS unit_id FROM UNNEST(GENERATE_ARRAY(0, {units} - 1)) AS number
)
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Two implementations of the same operation.

    Attributes:
        what: Name of the operation.
        plain: Minimal implementation; returns the number of processed bytes or rows.
        ours: imagebeam's implementation; returns the same number.
        min_ratio: Target for the speed of imagebeam relative to the minimal implementation; None for no target.
        max_repeats: Maximum number of runs.
    """

    what: str
    plain: Callable[[], int]
    ours: Callable[[], int]
    min_ratio: float | None
    max_repeats: int = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """The result of a comparison.

    Attributes:
        what: Name of the operation.
        plain_us: CPU microseconds per unit of the minimal implementation.
        ours_us: CPU microseconds per unit of imagebeam.
        ratio: Speed of imagebeam relative to the minimal implementation.
        min_ratio: Target for the ratio; None for no target.
    """

    what: str
    plain_us: float
    ours_us: float
    ratio: float
    min_ratio: float | None


def main(argv: list[str] | None = None) -> int:
    """Run the comparisons. The exit code is 0 even if targets are missed, because a slow machine is not an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_format", allow_abbrev=False)
    parser.add_argument("--units", type=int, default=20_000, help="units per run")
    parser.add_argument("--repeat", type=int, default=9, help="runs of each implementation")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", type=Path, metavar="PATH", help="update a page such as docs/benchmarks-batch.md")
    options = parser.parse_args(argv)
    work = Work("batch", options.units)
    results = [_measure(comparison, options.units, options.repeat) for comparison in comparisons(work)]
    with local_cloud() as cloud:
        results.insert(3, _measure(page_comparison(work, cloud.project), options.units, options.repeat))
    # At this size dicts have just been enlarged, which gives the maximum memory per unit.
    overhead = unit_overhead(87_400)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(marked(page, "format", _table(results, overhead)), encoding="utf-8")
    if options.json:
        measured = [dataclasses.asdict(result) for result in results]
        document = {"comparisons": measured, "matcher_bytes_per_unit": overhead}
        sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        return 0
    sys.stdout.write(f"{'CPU time per unit':44}{'minimal µs':>12}{'imagebeam µs':>14}{'speed':>8}{'target':>10}\n")
    for result in results:
        target = "" if result.min_ratio is None else f"≥ {result.min_ratio}"
        times = f"{result.plain_us:>12.2f}{result.ours_us:>14.2f}{result.ratio:>8.2f}"
        sys.stdout.write(f"{result.what:44}{times}{target:>10}\n")
    sys.stdout.write(f"\nThe matcher needs {overhead:.0f} bytes per unit besides the manifest (target: ≤ 400).\n")
    return 0


def comparisons(work: Work) -> list[Comparison]:
    """Return the comparisons, for the same units."""
    units = work.all_units()
    chunks = [units[start : start + CHUNK] for start in range(0, len(units), CHUNK)]
    keys = [[_key(work, unit) for unit in chunk] for chunk in chunks]
    pages = [pack(chunk) for chunk in chunks]
    template = line_template(work.task, work.profile, LABELS)
    # A reused buffer, as in an upload.
    sink = io.BytesIO()
    writer = MinimalWriter(template, units[0], sink)
    manifest = [(_key(work, unit), unit.unit_id.encode()) for unit in units]
    outputs = [output_line(key, template, unit) for (key, _), unit in zip(manifest, units, strict=True)]
    classifier = functools.partial(parse_answer, task=work.task)

    def minimal(chunk: Sequence[Unit]) -> int:
        return writer.join(chunk, [_key(work, unit) for unit in chunk])

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
        Comparison("build lines", lambda: sum(map(minimal, chunks)), lambda: sum(map(ours, chunks)), 0.4),
        Comparison(
            "build lines, keys given to both",
            lambda: sum(map(writer.join, chunks, keys)),
            lambda: sum(map(ours_with_keys, chunks, keys)),
            None,
        ),
        Comparison("build lines from packed unit batches", lambda: from_pages(minimal), lambda: from_pages(ours), None),
        Comparison("parse lines", lambda: _loads(outputs), lambda: _parse(outputs, None), 0.5),
        Comparison("parse and classify lines", lambda: _loads(outputs), lambda: _parse(outputs, classifier), None),
        Comparison(
            "parse, classify and match", lambda: _loads(outputs), lambda: _match(manifest, outputs, classifier), None
        ),
    ]


def page_comparison(work: Work, project: str) -> Comparison:
    """Return the comparison that includes reading the pages of the source query's result."""
    bq = BigQueryClient(project)
    result = bq.query(Query(_RESULT.format(units=work.units)), run_id="benchmark", location="US")
    template = line_template(work.task, work.profile, LABELS)
    sink = io.BytesIO()
    first = unit_from_row(next(bq.read_rows(result, 0, 1, UNIT_COLUMNS)))
    writer = MinimalWriter(template, first, sink)

    def chunks() -> Iterator[list[dict[str, Any]]]:
        rows = bq.read_rows(result, 0, result.rows, UNIT_COLUMNS)
        while chunk := list(itertools.islice(rows, CHUNK)):
            yield chunk

    def minimal(rows: Sequence[Mapping[str, Any]]) -> int:
        keys = [key_of(row["unit_id"], row["input_digest"], work.task.version) for row in rows]
        return writer.join_uris([row["images"][0]["uri"] for row in rows], keys)

    def ours(rows: Sequence[Mapping[str, Any]]) -> int:
        sink.seek(0)
        for unit in map(unit_from_row, rows):
            sink.write(template.line(_key(work, unit), unit, JPEG))
        return sink.tell()

    return Comparison(
        "build lines, including the query's pages",
        lambda: sum(map(minimal, chunks())),
        lambda: sum(map(ours, chunks())),
        None,
        max_repeats=3,
    )


class MinimalWriter:
    """Minimal writer: joins constant text, a column of keys and a column of URIs with pyarrow."""

    def __init__(self, template: LineTemplate, unit: Unit, sink: io.BytesIO) -> None:
        self._sink = sink
        line = template.line("KEY", unit, JPEG).decode()
        self._before, _, rest = line.partition("KEY")
        self._between, _, self._after = rest.partition(str(unit.images[0].uri))

    def join(self, units: Sequence[Unit], keys: Sequence[str]) -> int:
        """Build the lines of some units; return their size in bytes."""
        return self.join_uris([str(unit.images[0].uri) for unit in units], keys)

    def join_uris(self, uris: Sequence[str], keys: Sequence[str]) -> int:
        """Build the lines of some images; return their size in bytes."""
        columns = (self._before, pa.array(keys), self._between, pa.array(uris), self._after)
        lines = pc.binary_join_element_wise(*columns, "")
        self._sink.seek(0)
        self._sink.write(lines.buffers()[2])
        return self._sink.tell()


def output_line(key: str, template: LineTemplate, unit: Unit) -> bytes:
    """Return the output line of a unit: its key, the echoed request and an answer that fits the shipped task."""
    looks = {"sharpness": "sharp", "exposure": "normal", "colourfulness": "muted", "dominant_colour": "grey"}
    answer = {**looks, "reason": "Fine detail is crisp and nothing is covered.", "usable": True, "quality_score": 0.93}
    content = {"role": "model", "parts": [{"text": json.dumps(answer)}]}
    request = orjson.loads(template.line("k", unit, JPEG))["request"]
    # The shortest known form of the echo. A longer one would favor imagebeam.
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
    """Return the memory per unit of a matcher, in addition to the manifest, in bytes, with all units answered."""
    names = [f"o1:{number:032x}" for number in range(units)]
    answered = Answer(Status.OK, value={})
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


def _parse(lines: Sequence[bytes], classifier: Callable[[OutputLine], Answer] | None) -> int:
    rows = 0
    for raw in lines:
        line = parse_line(raw)
        rows += line.key is not None if classifier is None else classifier(line).ok
    return rows


def _match(
    manifest: Sequence[tuple[str, bytes]], lines: Sequence[bytes], classifier: Callable[[OutputLine], Answer]
) -> int:
    matcher = ShardMatcher(manifest, classifier, lambda _: ())
    for line in lines:
        matcher.feed_line(parse_line(line))
    return matcher.counts.ok


def _table(results: Sequence[Result], overhead: float) -> Iterator[str]:
    """Format the results for the page."""
    yield f"{machine()} CPU time of the process per unit, fastest of several runs."
    yield ""
    yield "| | minimal µs | imagebeam µs | speed | target |"
    yield "|---|--:|--:|--:|--:|"
    for result in results:
        target = "" if result.min_ratio is None else f"≥ {result.min_ratio}"
        yield f"| {result.what} | {result.plain_us:.2f} | {result.ours_us:.2f} | {result.ratio:.2f} | {target} |"
    yield ""
    yield f"Matching needs {overhead:.0f} bytes of memory per unit besides the manifest (target: ≤ 400)."


def _measure(comparison: Comparison, units: int, repeat: int) -> Result:
    best = {"plain": float("inf"), "ours": float("inf")}
    for _ in range(min(repeat, comparison.max_repeats)):
        handled = set()
        for name, run in (("plain", comparison.plain), ("ours", comparison.ours)):
            began = time.process_time()
            handled.add(run())
            best[name] = min(best[name], time.process_time() - began)
        if len(handled) != 1:
            raise AssertionError(f"{comparison.what}: the implementations differ: {handled}")
    plain_us, ours_us = (1e6 * best[name] / units for name in ("plain", "ours"))
    return Result(comparison.what, plain_us, ours_us, plain_us / ours_us, comparison.min_ratio)


if __name__ == "__main__":
    sys.exit(main())
