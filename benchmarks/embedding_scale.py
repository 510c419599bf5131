"""Embeddings at scale on this machine: vectors are loaded through batch jobs and searched.

::

    python -m benchmarks.embedding_scale                                      # 100,000 vectors of 512 numbers
    python -m benchmarks.embedding_scale --write docs/benchmarks-batch.md                # also update the page
    python -m benchmarks.embedding_scale --vectors 1000 --dimension 16        # only checks that it runs

``imagebeam embed --lane=batch`` runs in a separate process against a local Google Cloud in another one, whose model
derives vectors from a hash of the URIs. They are recomputed here and compared with the loaded ones. Every search is
compared with a minimal implementation, the product of a numpy matrix and the vector, measured at the same time on
the same machine. The search additionally involves SQL, HTTP and JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
import numpy as np
from google.cloud import bigquery

from benchmarks.batch_report import Memory, machine, marked
from benchmarks.command import run_imagebeam
from benchmarks.environment import local_cloud
from benchmarks.memory import peak_mb
from imagebeam.emulators.batch.embeddings import synthetic_vector
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.similarity.sql import search_query
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.sql.embedding_tables import embedding_table
from imagebeam.transforms.tasks.embedding import DEFAULT_MODEL

DATASET, BUCKET = "scale", "scale-work"
TOP_K = 20
#: Number of loaded vectors that are compared with the expected ones.
COMPARED = 200

_SOURCE = """
CREATE TABLE {dataset}.observations AS
SELECT FORMAT('o1:%08d', number) AS observation_id, FORMAT('gs://scale-images/o1:%08d.jpg', number) AS gcs_uri
FROM UNNEST(GENERATE_ARRAY(0, {vectors} - 1)) AS number
"""
_LOADED = "SELECT COUNT(*) AS n, COUNT(DISTINCT unit_id) AS units FROM {table}"
_SAMPLE = "SELECT unit_id, vector FROM {table} ORDER BY unit_id LIMIT {compared}"


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The results.

    Attributes:
        vectors: Images in the source.
        dimension: Number of components of a vector.
        exit_code: Exit code of the run.
        problems: Counts of the run that do not reconcile.
        loaded: Vectors in the table.
        units: Images with a vector.
        wrong: Compared vectors that differ from the expected ones.
        embed_s: Duration of the run in seconds.
        search_s: Median duration of a search in seconds.
        baseline_s: Seconds of the same with numpy, median.
        differing: Searches with other results than numpy's.
        memory: Memory of every process.
    """

    vectors: int
    dimension: int
    exit_code: int
    problems: Sequence[str]
    loaded: int
    units: int
    wrong: int
    embed_s: float
    search_s: float
    baseline_s: float
    differing: int
    memory: Sequence[Memory]

    @property
    def ratio(self) -> float:
        """Duration of a search relative to the numpy search."""
        return self.search_s / self.baseline_s

    @property
    def met(self) -> bool:
        """Whether all vectors were loaded correctly and all searches found the nearest."""
        return self.loaded_correctly and not self.differing

    @property
    def loaded_correctly(self) -> bool:
        """Whether every vector was loaded exactly once and unchanged."""
        whole = self.loaded == self.units == self.vectors
        return whole and not (self.exit_code or self.problems or self.wrong)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return 0 if all vectors were loaded and found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding_scale", allow_abbrev=False)
    parser.add_argument("--vectors", type=int, default=100_000, help="images in the source")
    parser.add_argument("--dimension", type=int, default=512, help="number of components of the vectors")
    parser.add_argument("--lines", type=int, default=50_000, help="images per job")
    parser.add_argument("--searches", type=int, default=10, help="number of searches")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", type=Path, metavar="PATH", help="update a page such as docs/benchmarks-batch.md")
    options = parser.parse_args(argv)
    if options.vectors <= TOP_K or options.searches < 1:
        parser.error(f"give more than {TOP_K} vectors, and at least one search")
    report = measure(options.vectors, options.dimension, options.lines, options.searches)
    if options.json:
        sys.stdout.write(json.dumps({**dataclasses.asdict(report), "ratio": report.ratio}, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(plain(report)) + "\n")
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(marked(page, "scale", table(report)), encoding="utf-8")
    return 0 if report.met else 1


def measure(vectors: int, dimension: int, lines: int, searches: int) -> Report:
    """Load vectors through batch jobs, and search them.

    Raises:
        RuntimeError: The run printed no summary. Contains the end of its error output.
    """
    with (
        tempfile.TemporaryDirectory(prefix="imagebeam-scale-") as name,
        local_cloud(Path(name) / "cloud") as cloud,
    ):
        client = bigquery.Client()
        client.create_dataset(DATASET)
        client.query(_SOURCE.format(dataset=DATASET, vectors=vectors)).result()
        storage.Client().create_bucket(BUCKET)
        cloud.faults(batch={"synthetic": True})
        before = peak_mb(_pid(cloud))
        began = time.monotonic()
        exit_code, summary, memory = run_imagebeam(
            [
                *("embed", f"--dimension={dimension}", "--lane=batch", f"--source={DATASET}.observations"),
                *(f"--results={DATASET}_results", f"--work_dir=gs://{BUCKET}/imagebeam"),
                *(f"--batch_lines={lines}", "--batch_poll_s=1", "--transport=uri", "--yes"),
            ],
            Path(name),
        )
        embed_s = time.monotonic() - began
        load_mb = peak_mb(_pid(cloud))
        table = embedding_table(TableName(cloud.project, f"{DATASET}_results", "x"), DEFAULT_MODEL, dimension)
        loaded = dict(next(iter(client.query(_LOADED.format(table=table.sql())).result())).items())
        expected = _expected_vectors(vectors, dimension)
        search_s, baseline_s, differing = _search(BigQueryClient(cloud.project), table, expected, searches)
        return Report(
            vectors=vectors,
            dimension=dimension,
            exit_code=exit_code,
            problems=summary["problems"],
            loaded=loaded["n"],
            units=loaded["units"],
            wrong=_wrong(client, table, expected),
            embed_s=embed_s,
            search_s=search_s,
            baseline_s=baseline_s,
            differing=differing,
            memory=[
                Memory("imagebeam embed (supervisor and Beam)", memory.own),
                *(Memory("child process", peak) for peak in memory.children),
                Memory("local Google Cloud, vectors loaded", load_mb, before),
                Memory("local Google Cloud, after the searches", peak_mb(_pid(cloud)), load_mb),
            ],
        )


def _expected_vectors(vectors: int, dimension: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the vectors of the model, one row per image, in the order of the IDs."""
    expected = np.empty((vectors, dimension))
    for number in range(vectors):
        expected[number] = synthetic_vector([f"gs://scale-images/{_unit(number)}.jpg"], dimension)
    return expected


def _unit(number: int) -> str:
    return f"o1:{number:08d}"


def _wrong(client: bigquery.Client, table: TableName, expected: np.ndarray[Any, np.dtype[np.float64]]) -> int:
    compared = min(COMPARED, len(expected))
    rows = list(client.query(_SAMPLE.format(table=table.sql(), compared=compared)).result())
    same: Iterator[bool] = (
        row["unit_id"] == _unit(at) and row["vector"] == expected[at].tolist() for at, row in enumerate(rows)
    )
    return compared - sum(same)


def _search(
    bq: BigQueryClient, table: TableName, expected: np.ndarray[Any, np.dtype[np.float64]], searches: int
) -> tuple[float, float, int]:
    """Return the median duration of a search and of the numpy search, and the number of differing results."""
    ours, baseline, differing = [], [], 0
    lengths = np.linalg.norm(expected, axis=1)
    for number in range(-1, searches):  # the first run is a warm-up
        near = np.array(synthetic_vector([f"search {number}"], expected.shape[1]))
        began = time.perf_counter()
        distances = 1 - expected @ near / (lengths * np.linalg.norm(near))
        nearest = np.argpartition(distances, TOP_K)[:TOP_K]
        found = [_unit(at) for at in nearest[np.argsort(distances[nearest])]]
        between = time.perf_counter()
        rows = bq.query_rows(search_query(table, tuple(near.tolist()), TOP_K))
        ended = time.perf_counter()
        differing += [row["unit_id"] for row in sorted(rows, key=lambda row: row["rank"])] != found
        if number >= 0:
            baseline.append(between - began)
            ours.append(ended - between)
    return statistics.median(ours), statistics.median(baseline), differing


def plain(report: Report) -> Iterator[str]:
    """Format a report for a terminal."""
    per_s = report.vectors / report.embed_s
    yield f"{report.vectors:,} vectors of {report.dimension:,} numbers loaded in {report.embed_s:.0f} s, {per_s:,.0f}/s"
    whole = "one per image" if report.loaded == report.units == report.vectors else "NOT one per image"
    yield f"{report.loaded:,} vectors in the table, {whole}; {report.wrong} of the compared ones differ"
    yield (
        f"a search takes {1000 * report.search_s:.0f} ms, {report.ratio:.1f} times numpy's "
        f"{1000 * report.baseline_s:.1f} ms; {report.differing} searches have other results"
    )
    yield from (f"PROBLEM {problem}" for problem in report.problems)
    for process in report.memory:
        before = f" (before: {process.before_mb:.0f} MB)" if process.before_mb else ""
        yield f"{process.peak_mb:8.0f} MB  {process.what}{before}"


def table(report: Report) -> Iterator[str]:
    """Format a report for the page."""
    yield machine()
    yield ""
    yield f"| {report.vectors:,} vectors of {report.dimension:,} numbers | measured | |"
    yield "|---|---|---|"
    yield (
        f"| every image has one unchanged vector | {report.loaded:,} vectors of {report.units:,} images, "
        f"{report.wrong} of the compared ones differ | {_verdict(report.loaded_correctly)} |"
    )
    yield (
        f"| every search finds the nearest {TOP_K} | {report.differing} differ from numpy's results "
        f"| {_verdict(not report.differing)} |"
    )
    yield f"| loading | {report.embed_s:.0f} s, {report.vectors / report.embed_s:,.0f}/s | |"
    yield (
        f"| a search, compared with a numpy product | {1000 * report.search_s:.0f} ms, {report.ratio:.1f} times "
        f"numpy's {1000 * report.baseline_s:.0f} ms | |"
    )
    for process in report.memory:
        yield f"| memory of {process.what} | {process.peak_mb:.0f} MB | |"


def _verdict(met: object) -> str:
    return "ok" if met else "**missed**"


def _pid(cloud: LocalCloud) -> int:
    return int(json.loads((cloud.directory / "local.json").read_text())["pid"])


if __name__ == "__main__":
    sys.exit(main())
