"""What common ways to process images lose or pay twice, on the local Google Cloud.

::

    python -m benchmarks.comparison                                # a minute
    python -m benchmarks.comparison --write docs/comparison.md     # also update the page

1. Beam's RunInference with the default batch size of GeminiModelHandler: rows that come out.
2. Batch jobs by hand, as in the samples of the documentation: a process creates a job and waits for it. It is killed
   after the job was created and started again: rows that are paid twice.
3. The same, with output lines in another order and some of them missing: answers that are assigned to a wrong image if
   lines are matched by position.

Each is repeated with imagebeam.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import google.cloud.storage as storage
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.gemini_inference import GeminiModelHandler
from apache_beam.transforms.combiners import Count
from google import genai
from google.cloud import bigquery
from google.genai import types
from PIL import Image

from benchmarks.batch_report import machine, marked
from benchmarks.command import run_imagebeam
from benchmarks.environment import local_cloud
from imagebeam.emulators.cloud import LocalCloud

DATASET, IMAGES, WORK = "comparison", "comparison-images", "comparison-work"
MODEL, PROMPT = "gemini-3.5-flash-lite", "What is in this image?"
#: Output lines in another order, and shares of lines that are missing or failed.
BAD_LINES = {"synthetic": True, "jobs": [{"shuffled": True, "missing": 0.02, "failed": 0.02}]}
#: Jobs that run long enough to be killed before they end.
SLOW = {"synthetic": True, "jobs": [{"running_s": 2}]}
_SOURCE = """
CREATE TABLE {dataset}.observations AS
SELECT
  FORMAT('o1:%032x:00250082', number) AS observation_id,
  FORMAT('t1:%032x:ffff01ee', number) AS asset_id,
  'ASSET_CLASS_UTILITY_POLE' AS asset_type,
  FORMAT('gs://{bucket}/%04d.jpg', number) AS gcs_uri,
  TIMESTAMP '2026-05-01 10:00:00+00' AS capture_time
FROM UNNEST(GENERATE_ARRAY(0, {units} - 1)) AS number
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the result.

    Attributes:
        what: What was measured.
        other: Name of the alternative.
        value: Its value.
        imagebeam: The value of imagebeam.
    """

    what: str
    other: str
    value: int
    imagebeam: int


def main(argv: list[str] | None = None) -> int:
    """Measure; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", allow_abbrev=False)
    parser.add_argument("--units", type=int, default=300, help="images")
    parser.add_argument("--write", type=Path, metavar="PATH", help="update a page such as docs/comparison.md")
    parser.add_argument("--submit", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.submit:
        wait_for(submit_by_hand(options.units))
        return 0
    rows = compare(options.units)
    lines = [f"{machine()} {options.units:,} images.", "", *_table(rows)]
    sys.stdout.write("\n".join([*lines, ""]))
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(marked(page, "comparison", iter(lines)), encoding="utf-8")
    return 0


def compare(units: int) -> list[Row]:
    """Return the results of all measurements."""
    with tempfile.TemporaryDirectory() as name, local_cloud(Path(name) / "cloud") as cloud:
        directory = Path(name)
        _create_images(units)
        online = _classify(directory, "online", "--lane=online")
        return [
            Row("rows of the input in the output", "RunInference, default batch size", infer(units, directory), online),
            Row(
                "rows paid twice after a kill",
                "batch job by hand",
                paid_twice_by_hand(cloud, units),
                _paid_twice(cloud, directory),
            ),
            Row(
                "answers of a wrong image: lines shuffled, 4 % missing or failed",
                "batch job by hand, matched by position",
                mismatched_by_hand(cloud, units),
                _mismatched(cloud, directory),
            ),
        ]


def infer(units: int, directory: Path) -> int:
    """Return the rows that RunInference returns with the default batch size."""
    handler = GeminiModelHandler(MODEL, _request, project=os.environ["GOOGLE_CLOUD_PROJECT"], location="global")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        counted = (
            pipeline | beam.Create([_uri(number) for number in range(units)]) | RunInference(handler) | Count.Globally()
        )
        _ = counted | beam.Map(_write, str(directory / "count"))
    return int((directory / "count").read_text())


def _write(count: int, path: str) -> None:
    Path(path).write_text(str(count))


def _request(model_name: str, batch: Sequence[str], model: genai.Client, _: Mapping[str, Any]) -> Any:
    parts = [*(types.Part.from_uri(file_uri=uri, mime_type="image/jpeg") for uri in batch), types.Part(text=PROMPT)]
    return model.models.generate_content(model=model_name, contents=types.Content(role="user", parts=parts))


def submit_by_hand(units: int, name: str = "killed") -> str:
    """Write requests and create a job for them, as in the samples; return the name of the job."""
    lines = "\n".join(json.dumps({"request": _body(_uri(number))}) for number in range(units))
    bucket = storage.Client().bucket(WORK)
    bucket.blob(f"{name}/requests.jsonl").upload_from_string(lines)
    client = _client()
    job = client.batches.create(
        model=MODEL,
        src=f"gs://{WORK}/{name}/requests.jsonl",
        config=types.CreateBatchJobConfig(dest=f"gs://{WORK}/{name}/output"),
    )
    return str(job.name)


def wait_for(name: str) -> str:
    """Wait for a job; return the prefix of its output."""
    client = _client()
    while True:
        job = client.batches.get(name=name)
        if job.done:
            return str(job.dest and job.dest.gcs_uri)
        time.sleep(0.2)


def paid_twice_by_hand(cloud: LocalCloud, units: int) -> int:
    """Kill the process after it created the job, start it again, and return the rows that were paid twice."""
    cloud.faults(batch=SLOW)
    command = [sys.executable, "-m", "benchmarks.comparison", "--submit", f"--units={units}"]
    _kill_when_created(cloud, command, Path.cwd())
    subprocess.run(command, check=True)  # noqa: S603
    return _paid_more_than_once(cloud)


def mismatched_by_hand(cloud: LocalCloud, units: int) -> int:
    """Return the answers that are assigned to a wrong image by the position of their line."""
    cloud.faults(batch=BAD_LINES)
    prefix = wait_for(submit_by_hand(units, "matched")).removeprefix(f"gs://{WORK}/")
    found = [
        _uri_of(json.loads(line))
        for blob in storage.Client().list_blobs(WORK, prefix=prefix)
        if blob.name.endswith("predictions.jsonl")
        for line in blob.download_as_bytes().splitlines()
    ]
    return sum(uri != _uri(number) for number, uri in enumerate(found))


def _paid_twice(cloud: LocalCloud, directory: Path) -> int:
    cloud.faults(batch=SLOW)
    arguments = _arguments("batch", "--lane=batch", f"--work_dir=gs://{WORK}/kill", "--batch_poll_s=0.2")
    _kill_when_created(cloud, [sys.executable, "-m", "imagebeam.pipeline", *arguments], directory)
    run_imagebeam(["batch", "collect", f"--work_dir=gs://{WORK}/kill", "--batch_poll_s=0.2"], directory)
    return _paid_more_than_once(cloud)


def _mismatched(cloud: LocalCloud, directory: Path) -> int:
    """Return the answers that differ from those of a job without faults, which depend on the image only."""
    cloud.faults(batch=BAD_LINES)
    _classify(directory, "shuffled", "--lane=batch", f"--work_dir=gs://{WORK}/shuffled", "--batch_poll_s=0.2")
    cloud.faults(batch={"synthetic": True})
    _classify(directory, "ordered", "--lane=batch", f"--work_dir=gs://{WORK}/ordered", "--batch_poll_s=0.2")
    query = (
        f"SELECT COUNT(*) AS wrong FROM {DATASET}_shuffled.outcomes AS a JOIN {DATASET}_ordered.outcomes AS b "
        "USING (unit_id) WHERE a.status = 'OK' AND b.status = 'OK' "
        "AND TO_JSON_STRING(a.answer) != TO_JSON_STRING(b.answer)"
    )
    return int(next(iter(bigquery.Client().query(query).result()))["wrong"])


def _classify(directory: Path, results: str, *more: str) -> int:
    """Run ``classify``; return the units with an outcome."""
    code, summary, _ = run_imagebeam(_arguments(results, *more), directory)
    counted = summary["counted"]
    if code:
        raise RuntimeError(f"imagebeam exited with {code}: {summary['counts']}")
    return sum((int(counted["ok"]), *map(int, counted["failed"].values())))


def _arguments(results: str, *more: str) -> list[str]:
    return [
        *("classify", "--task=image_quality", f"--source={DATASET}.observations", f"--results={DATASET}_{results}"),
        *("--yes", "--max_failure_percent=100", *more),
    ]


def _kill_when_created(cloud: LocalCloud, command: Sequence[str], directory: Path) -> None:
    """Start a process, and kill it once it has created a batch job."""
    before = _jobs(cloud)
    with subprocess.Popen(  # noqa: S603
        command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while _jobs(cloud) == before:
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended without a job: {process.communicate()[1].decode()[-2000:]}")
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)


def _jobs(cloud: LocalCloud) -> int:
    return len(cloud.batch_jobs())


def _paid_more_than_once(cloud: LocalCloud) -> int:
    """Return the rows that were paid twice since the counters were reset, and reset them."""
    while any(job["state"] in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING") for job in cloud.batch_jobs()):
        time.sleep(0.2)
    paid = cloud.counters()["batch"]["paid_per_uri"]
    cloud.reset()
    return sum(times > 1 for times in paid.values())


def _create_images(units: int) -> None:
    client = storage.Client()
    for name in (IMAGES, WORK):
        client.create_bucket(name)
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(buffer, "JPEG")
    for number in range(units):
        client.bucket(IMAGES).blob(f"{number:04d}.jpg").upload_from_string(buffer.getvalue(), "image/jpeg")
    bigquery.Client().create_dataset(DATASET)
    bigquery.Client().query(_SOURCE.format(dataset=DATASET, bucket=IMAGES, units=units)).result()


def _uri(number: int) -> str:
    return f"gs://{IMAGES}/{number:04d}.jpg"


def _body(uri: str) -> dict[str, Any]:
    image = {"fileData": {"fileUri": uri, "mimeType": "image/jpeg"}}
    return {"contents": [{"role": "user", "parts": [image, {"text": PROMPT}]}]}


def _uri_of(line: Mapping[str, Any]) -> str:
    return str(line["request"]["contents"][0]["parts"][0]["fileData"]["fileUri"])


def _client() -> genai.Client:
    return genai.Client(vertexai=True, project=os.environ["GOOGLE_CLOUD_PROJECT"], location="global")


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| measured | alternative | its value | imagebeam |"
    yield "| --- | --- | --: | --: |"
    for row in rows:
        yield f"| {row.what} | {row.other} | {row.value:,} | {row.imagebeam:,} |"


if __name__ == "__main__":
    sys.exit(main())
