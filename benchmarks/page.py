"""What was measured, for the terminal and as ``docs/benchmarks.md``."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata

from benchmarks.findings import NAMES, Entry, Report

_HEAD = """\
# Benchmarks

Made by `{command}` (`make bench`), {date}, in {minutes:.0f} minutes. Do not edit: run it again.

Machine: {machine}; {placement} Load average {load[0]:.1f} when it began, {load[1]:.1f} at its end.
Python {python}, google-genai {genai}, aiohttp {aiohttp}, apache-beam {beam}.

Ratios are of runs that took turns on the same machine minutes apart; absolute numbers depend on the machine and
on what else it does.
"""

_NOTES = """\
## How it is measured

- The service is the local Vertex AI of this repository, a process of its own: it checks tokens and requests, reads
  the image, waits (log-normal, σ 0.35), and counts calls and answers per image. Where the floor
  itself does not reach in flight ÷ latency, the service or this machine is the limit, not the contestant; the table
  says how busy the server's core was.
- Every contestant is a process of its own, with the same images (objects of 64 × 64 pixels, passed by URI), the
  same prompt, schema and settings. CPU and memory are those of the whole process. Imports, tokens and tables come
  before the measurement.
- imagebeam runs as `CallModel` on Beam's local runner, with every answer recorded in the local BigQuery (which shares
  the server's core). An image counts when it is recorded. The others keep nothing.
- *Steady* is from 40 % to 90 % of the images: without the slow start that a service asks for, and without the last
  calls trickling in. The whole run is beside it.
- Lost and repeated images are counted by the server, per object.
- Utilisation is the time that the quota needs at best, from the first call to the last one that is let through,
  divided by the time that it took. The pacer is told nothing about the quota.
- The pool of 64 threads gets all its images as one batch of 1,536, which suits it best: with batches of 64, 256 and
  512 it got 26, 42 and 50 images/s, with one of 1,536 56. It can never pass 64 ÷ 1.06 s = 60 images/s, so no window of
  256 calls can be five times as fast: 256 ÷ 64 is 4.
- Imports alone (Beam, google-genai, the BigQuery and Storage clients) take about 197 MB of a worker's memory: 161 MB
  for `import apache_beam`, which itself brings the Google Cloud clients, 32 MB for google-genai, 4 MB for imagebeam.
  Nothing that imagebeam imports could be left out for a noticeable gain, so 63 MB would be left for 2,048 calls, and
  raw aiohttp needs that for its connections alone.
- The long way to 256 or 2,048 calls in flight is deliberate: Google asks for a slow start, and refuses a sharp one
  even below the quota. [rate-limiting.md](rate-limiting.md) describes how the rate is found.
- RunInference has a batch size of 1, because with more it loses rows: the handler sends a batch as one request and
  gives its answer to the first row.
"""

_COLUMNS = (
    ("images", 7),
    ("img/s", 8),
    ("steady", 8),
    ("CPU ms", 8),
    ("steady", 8),
    ("MB", 6),
    ("flight", 7),
    ("lost", 5),
    ("server", 8),
)


def plain(report: Report) -> Iterator[str]:
    """A report for a terminal."""
    yield report.title
    for promise in report.promises:
        state = "ok   " if promise.kept else "SHORT"
        yield f"  {state} {promise.what}: {promise.measured} (target {promise.target}); {promise.note}"
    if report.entries:
        yield f"  {'':40}" + "".join(f"{title:>{width}}" for title, width in _COLUMNS)
    for entry in report.entries:
        yield (
            f"  {NAMES[entry.contestant]:40}{entry.images:7}{entry.per_s:8.1f}{entry.steady_per_s:8.1f}"
            f"{entry.cpu_ms:8.2f}{entry.steady_cpu_ms:8.2f}{entry.peak_mb:6.0f}{entry.max_in_flight:7}"
            f"{entry.lost:5}{entry.server_busy:8.0%}"
        )


def page(reports: Sequence[Report], command: str, *, took_s: float, pinned: bool, load: tuple[float, float]) -> str:
    """The page."""
    placement = "server on one core, contestants on the others." if pinned else "nothing is pinned to a core."
    head = _HEAD.format(
        command=command,
        date=datetime.datetime.now(datetime.UTC).date(),
        minutes=max(took_s / 60, 1),
        machine=f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}",
        placement=placement,
        load=load,
        python=platform.python_version(),
        genai=metadata.version("google-genai"),
        aiohttp=metadata.version("aiohttp"),
        beam=metadata.version("apache-beam"),
    )
    promises = [
        "| what | target | measured | | |",
        "|---|---|---|---|---|",
        *(
            f"| {promise.what} | {promise.target} | {promise.measured} | {'ok' if promise.kept else '**short**'} "
            f"| {promise.note} |"
            for report in reports
            for promise in report.promises
        ),
    ]
    tables = [line for report in reports if report.entries for line in _table(report)]
    return "\n".join([head, "## Promises", "", *promises, "", *tables, _NOTES])


def _table(report: Report) -> Iterator[str]:
    yield f"## {report.title}"
    yield ""
    yield "| | images | images/s | steady | CPU ms/image | steady | peak MB | most in flight | lost | server's core |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for entry in report.entries:
        yield _row(entry)
    yield ""


def _row(entry: Entry) -> str:
    return (
        f"| {NAMES[entry.contestant]} | {entry.images:,} | {entry.per_s:.1f} | {entry.steady_per_s:.1f} "
        f"| {entry.cpu_ms:.2f} | {entry.steady_cpu_ms:.2f} | {entry.peak_mb:.0f} | {entry.max_in_flight:,} "
        f"| {entry.lost} | {entry.server_busy:.0%} |"
    )
