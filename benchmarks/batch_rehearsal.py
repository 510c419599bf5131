"""A rehearsal of the batch lane on this machine: a million units, with typical failures of jobs.

::

    python -m benchmarks.batch_rehearsal                                # a million units, about ten minutes
    python -m benchmarks.batch_rehearsal --write docs/benchmarks-batch.md          # also update the page
    python -m benchmarks.batch_rehearsal --units 2000 --lines 400       # only checks that it runs

The command line runs in a separate process against a local Google Cloud in another one. In every job 1 % of the rows
fail, 0.5 % get no output line and 0.5 % get two; one job expires before any row, and one ends after 60 % of its rows.
Answers are derived from a hash of the URIs, so that the service takes little time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google.cloud.storage as storage
from google.cloud import bigquery

from benchmarks.batch_phases import phases
from benchmarks.batch_report import Memory, Report, marked, plain, table
from benchmarks.command import run_imagebeam
from benchmarks.environment import local_cloud
from benchmarks.memory import peak_mb
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.batch_shards import shard_name

RUN_ID = "rehearsal"
DATASET, BUCKET = "rehearsal", "rehearsal-work"
#: Shares of the rows of every job that fail (a quarter of them permanently), get no line, or get two lines.
EVERY_JOB = {"failed": 0.01, "failed_codes": [503, 503, 503, 400], "missing": 0.005, "duplicated": 0.005}
#: Share of rows that the partial job processes.
FINISHED = 0.6

_SOURCE = """
CREATE TABLE {dataset}.observations AS
SELECT
  FORMAT('o1:%032x:00250082', number) AS observation_id,
  FORMAT('t1:%032x:ffff01ee', DIV(number, 3)) AS asset_id,
  'ASSET_CLASS_UTILITY_POLE' AS asset_type,
  FORMAT('gs://rehearsal-images/snapshot/v0/o1:%032x:00250082.jpg', number) AS gcs_uri,
  TIMESTAMP_ADD(TIMESTAMP '2026-05-01 10:00:00+00', INTERVAL MOD(number, 100000) SECOND) AS capture_time,
  CAST(MOD(number, 180) AS FLOAT64) AS heading
FROM UNNEST(GENERATE_ARRAY(0, {units} - 1)) AS number
"""

# More than one OK outcome means that a unit was paid twice.
_RECORDED = """
SELECT COUNT(*) AS units, COUNTIF(ok > 0) AS ok, COUNTIF(ok > 1) AS twice, SUM(ok) AS answers
FROM (SELECT unit_id, COUNTIF(status = 'OK') AS ok FROM {dataset}_results.outcomes GROUP BY unit_id)
"""


def main(argv: list[str] | None = None) -> int:
    """Run the rehearsal; return 0 if every target is met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch_rehearsal", allow_abbrev=False)
    parser.add_argument("--units", type=int, default=1_000_000, help="units in the source, enough for five jobs")
    parser.add_argument("--lines", type=int, default=200_000, help="units per job")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", type=Path, metavar="PATH", help="update a page such as docs/benchmarks-batch.md")
    options = parser.parse_args(argv)
    if options.units <= 4 * options.lines:
        parser.error(f"{options.units:,} units make fewer than five jobs of {options.lines:,}: give --lines")
    report = rehearse(options.units, options.lines)
    if options.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(report), indent=1, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("\n".join(plain(report)) + "\n")
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(marked(page, "rehearsal", table(report)), encoding="utf-8")
    return 0 if report.met else 1


def rehearse(units: int, lines: int) -> Report:
    """Run the batch lane with a number of units and of lines per job.

    Raises:
        RuntimeError: The run printed no summary. Contains the end of its error output.
    """
    with (
        tempfile.TemporaryDirectory(prefix="imagebeam-rehearsal-") as name,
        local_cloud(Path(name) / "cloud") as cloud,
    ):
        bigquery.Client().create_dataset(DATASET)
        bigquery.Client().query(_SOURCE.format(dataset=DATASET, units=units)).result()
        storage.Client().create_bucket(BUCKET)
        cloud.faults(batch={"synthetic": True, "jobs": _faults(units, lines)})
        return _run(cloud, Path(name), units, lines)


def _faults(units: int, lines: int) -> list[dict[str, Any]]:
    """Return the faults: bad rows in all jobs; in the first round the second job expires and the fourth is partial."""
    names = [f"imagebeam-{RUN_ID}-r1-{shard_name(start, 0)}" for start in range(0, units, lines)]
    return [
        EVERY_JOB,
        {"match": names[1], "end": "EXPIRED"},
        {"match": names[3], "end": "PARTIALLY_SUCCEEDED", "finished": FINISHED},
    ]


def _run(cloud: LocalCloud, directory: Path, units: int, lines: int) -> Report:
    before = peak_mb(_pid(cloud))
    began, began_at = time.monotonic(), time.time()
    exit_code, summary, memory = run_imagebeam(
        [
            *("classify", "--task=image_quality", f"--source={DATASET}.observations", f"--results={DATASET}_results"),
            *(f"--run_id={RUN_ID}", "--yes", "--lane=batch", f"--work_dir=gs://{BUCKET}/imagebeam"),
            *(f"--batch_lines={lines}", "--batch_poll_s=1"),
        ],
        directory,
    )
    took_s = time.monotonic() - began
    recorded = dict(next(iter(bigquery.Client().query(_RECORDED.format(dataset=DATASET)).result())).items())
    counted = cloud.counters()["batch"]
    return Report(
        units=units,
        exit_code=exit_code,
        counts=summary["counts"],
        problems=summary["problems"],
        took_s=took_s,
        phases=phases(BUCKET, f"imagebeam/runs/{RUN_ID}", cloud.batch_jobs(), began_at, began_at + took_s),
        jobs=_jobs(cloud.batch_jobs()),
        paid=counted["paid"],
        unwritten=counted.get("paid_unwritten", 0),
        answered=recorded["ok"],
        recorded=recorded["units"],
        answered_twice=recorded["twice"],
        memory=[
            Memory("imagebeam (supervisor and Beam)", memory.own),
            *(Memory("child process", peak) for peak in memory.children),
            Memory("local Google Cloud", peak_mb(_pid(cloud)), before),
        ],
    )


def _jobs(jobs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of jobs by name."""
    names = sorted(str(job["displayName"]).removeprefix(f"imagebeam-{RUN_ID}-") for job in jobs)
    return {name: names.count(name) for name in names}


def _pid(cloud: LocalCloud) -> int:
    return int(json.loads((cloud.directory / "local.json").read_text())["pid"])


if __name__ == "__main__":
    sys.exit(main())
