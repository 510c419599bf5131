"""Vectors at scale on this machine: they land through batch jobs, and are searched over.

::

    python -m benchmarks.embedding_scale                                      # 100,000 vectors of 512 numbers
    python -m benchmarks.embedding_scale --write docs/batch.md                # and the page gets the figures
    python -m benchmarks.embedding_scale --vectors 1000 --dimension 16        # does it all run?

``imagebeam embed --lane=batch`` runs as a person runs it, in a process of its own, against a local Google Cloud in
another one, whose model makes vectors from a hash of the URIs. So they are known here too: what landed is compared
with them, and every search with the plainest way to do the same, one product of a numpy matrix with the vector.
The search pays for SQL, HTTP and JSON besides; the ratio of both times is of the same minute on the same machine.
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

from benchmarks.batch_figures import Memory, machine, marked
from benchmarks.command import run_imagebeam
from benchmarks.memory import peak_mb
from benchmarks.surroundings import local_cloud
from imagebeam.emulators.batch.embeddings import imagined
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.search.sql import Search, search_query
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.sql.embedding_tables import embedding_table
from imagebeam.transforms.tasks.embedding import DEFAULT_MODEL

DATASET, BUCKET = "scale", "scale-work"
TOP_K = 20
#: Landed vectors that are compared with what was sent.
COMPARED = 200

_SOURCE = """
CREATE TABLE {dataset}.observations AS
SELECT FORMAT('o1:%08d', number) AS observation_id, FORMAT('gs://scale-images/o1:%08d.jpg', number) AS gcs_uri
FROM UNNEST(GENERATE_ARRAY(0, {vectors} - 1)) AS number
"""
_LANDED = "SELECT COUNT(*) AS n, COUNT(DISTINCT unit_id) AS units FROM {table}"
_SAMPLE = "SELECT unit_id, vector FROM {table} ORDER BY unit_id LIMIT {compared}"


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What it came to.

    Attributes:
        vectors: Images of the source.
        dimension: Length of a vector.
        exit_code: Of the run.
        problems: What does not balance in its books.
        landed: Vectors in the table.
        units: Images that have one.
        wrong: Of the vectors compared, those that are not what the model sent.
        embed_s: Seconds from the start of the run to its end.
        search_s: Seconds of a search, median.
        floor_s: Seconds of the same with numpy, median.
        differing: Searches that found others than numpy did.
        memory: Of every process.
    """

    vectors: int
    dimension: int
    exit_code: int
    problems: Sequence[str]
    landed: int
    units: int
    wrong: int
    embed_s: float
    search_s: float
    floor_s: float
    differing: int
    memory: Sequence[Memory]

    @property
    def ratio(self) -> float:
        """How many times as long a search takes as the floor."""
        return self.search_s / self.floor_s

    @property
    def kept(self) -> bool:
        """True if every vector landed once, as it was sent, and every search found the nearest."""
        return self.landed_well and not self.differing

    @property
    def landed_well(self) -> bool:
        """True if every vector landed once, as it was sent."""
        whole = self.landed == self.units == self.vectors
        return whole and not (self.exit_code or self.problems or self.wrong)


def main(argv: list[str] | None = None) -> int:
    """Runs it; 0 if every vector landed and was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding_scale", allow_abbrev=False)
    parser.add_argument("--vectors", type=int, default=100_000, help="images of the source")
    parser.add_argument("--dimension", type=int, default=512, help="length of the vectors")
    parser.add_argument("--lines", type=int, default=50_000, help="images per job")
    parser.add_argument("--searches", type=int, default=10, help="searches that are timed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", type=Path, metavar="PATH", help="put the figures into a page, such as docs/batch.md")
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
    return 0 if report.kept else 1


def measure(vectors: int, dimension: int, lines: int, searches: int) -> Report:
    """Lands so many vectors through jobs of so many lines, and searches so often.

    Raises:
        RuntimeError: The run gave no books; with what it said.
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
        landing = peak_mb(_pid(cloud))
        table = embedding_table(TableName(cloud.project, f"{DATASET}_results", "x"), DEFAULT_MODEL, dimension)
        landed = dict(next(iter(client.query(_LANDED.format(table=table.sql())).result())).items())
        sent = _sent(vectors, dimension)
        search_s, floor_s, differing = _search(BigQueryClient(cloud.project), table, sent, searches)
        return Report(
            vectors=vectors,
            dimension=dimension,
            exit_code=exit_code,
            problems=summary["problems"],
            landed=landed["n"],
            units=landed["units"],
            wrong=_wrong(client, table, sent),
            embed_s=embed_s,
            search_s=search_s,
            floor_s=floor_s,
            differing=differing,
            memory=[
                Memory("imagebeam embed (supervisor and Beam)", memory.own),
                *(Memory("a process of it", peak) for peak in memory.children),
                Memory("local Google Cloud, vectors landed", landing, before),
                Memory("local Google Cloud, after the searches", peak_mb(_pid(cloud)), landing),
            ],
        )


def _sent(vectors: int, dimension: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What the model sent, a row for each image, in the order of their ids."""
    sent = np.empty((vectors, dimension))
    for number in range(vectors):
        sent[number] = imagined([f"gs://scale-images/{_unit(number)}.jpg"], dimension)
    return sent


def _unit(number: int) -> str:
    return f"o1:{number:08d}"


def _wrong(client: bigquery.Client, table: TableName, sent: np.ndarray[Any, np.dtype[np.float64]]) -> int:
    compared = min(COMPARED, len(sent))
    rows = list(client.query(_SAMPLE.format(table=table.sql(), compared=compared)).result())
    same: Iterator[bool] = (
        row["unit_id"] == _unit(at) and row["vector"] == sent[at].tolist() for at, row in enumerate(rows)
    )
    return compared - sum(same)


def _search(
    bq: BigQueryClient, table: TableName, sent: np.ndarray[Any, np.dtype[np.float64]], searches: int
) -> tuple[float, float, int]:
    """Median seconds of a search and of the floor, in turns, and how many found others."""
    ours, floor, differing = [], [], 0
    lengths = np.linalg.norm(sent, axis=1)
    for number in range(-1, searches):  # the first one warms both up
        near = np.array(imagined([f"search {number}"], sent.shape[1]))
        began = time.perf_counter()
        distances = 1 - sent @ near / (lengths * np.linalg.norm(near))
        nearest = np.argpartition(distances, TOP_K)[:TOP_K]
        found = [_unit(at) for at in nearest[np.argsort(distances[nearest])]]
        between = time.perf_counter()
        rows = bq.query_rows(search_query(Search(table, TOP_K), tuple(near.tolist())))
        ended = time.perf_counter()
        differing += [row["unit_id"] for row in sorted(rows, key=lambda row: row["rank"])] != found
        if number >= 0:
            floor.append(between - began)
            ours.append(ended - between)
    return statistics.median(ours), statistics.median(floor), differing


def plain(report: Report) -> Iterator[str]:
    """A report for a terminal."""
    per_s = report.vectors / report.embed_s
    yield f"{report.vectors:,} vectors of {report.dimension:,} numbers landed in {report.embed_s:.0f} s, {per_s:,.0f}/s"
    whole = "each image has one" if report.landed == report.units == report.vectors else "NOT one for each image"
    yield f"{report.landed:,} vectors in the table, {whole}; {report.wrong} of those compared differ from what was sent"
    yield (
        f"a search takes {1000 * report.search_s:.0f} ms, {report.ratio:.1f} times numpy's "
        f"{1000 * report.floor_s:.1f} ms; {report.differing} searches found others"
    )
    yield from (f"PROBLEM {problem}" for problem in report.problems)
    for process in report.memory:
        before = f" (before: {process.before_mb:.0f} MB)" if process.before_mb else ""
        yield f"{process.peak_mb:8.0f} MB  {process.what}{before}"


def table(report: Report) -> Iterator[str]:
    """A report for the page."""
    yield machine()
    yield ""
    yield f"| {report.vectors:,} vectors of {report.dimension:,} numbers | seen | |"
    yield "|---|---|---|"
    yield (
        f"| every image has one vector, as it was sent | {report.landed:,} vectors of {report.units:,} images, "
        f"{report.wrong} of those compared differ | {_verdict(report.landed_well)} |"
    )
    yield (
        f"| every search finds the nearest {TOP_K} | {report.differing} found others than numpy "
        f"| {_verdict(not report.differing)} |"
    )
    yield f"| landing | {report.embed_s:.0f} s, {report.vectors / report.embed_s:,.0f} a second | |"
    yield (
        f"| a search, beside one product of a numpy matrix | {1000 * report.search_s:.0f} ms, {report.ratio:.1f} times "
        f"numpy's {1000 * report.floor_s:.0f} ms | |"
    )
    for process in report.memory:
        yield f"| memory of {process.what} | {process.peak_mb:.0f} MB | |"


def _verdict(kept: object) -> str:
    return "ok" if kept else "**short**"


def _pid(cloud: LocalCloud) -> int:
    return int(json.loads((cloud.directory / "local.json").read_text())["pid"])


if __name__ == "__main__":
    sys.exit(main())
