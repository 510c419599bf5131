"""A killed `imagebeam batch run` never buys its job twice: real processes, killed between two of its writes."""

from __future__ import annotations

import multiprocessing
import secrets
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import google.cloud.storage as storage
import pytest
from support.batch_local import jsonl, line_of
from support.jobs import run_cli
from support.vertex_local import picture

from imagebeam.emulators.cloud import LocalCloud

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["imagebeam.pipeline.batch_command.command", "imagebeam.pipeline.cli.main"])
pytestmark = pytest.mark.long
BUCKET = "killed-batch-run"
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def place(cloud: LocalCloud) -> str:
    """A bucket with one image and one request."""
    bucket = storage.Client().create_bucket(BUCKET)
    bucket.blob("image.jpg").upload_from_string(picture(), content_type="image/jpeg")
    bucket.blob("in.jsonl").upload_from_string(jsonl([line_of("k-0", f"gs://{BUCKET}/image.jpg")]))
    return f"gs://{BUCKET}"


def command(place: str, name: str) -> list[str]:
    return [
        "batch",
        "run",
        "--model=gemini-2.5-flash",
        f"--input={place}/in.jsonl",
        f"--output={place}/{name}",
        f"--work_dir={place}/runs",
        "--batch_poll_s=0.1",
        "--batch_grace_s=1",
    ]


def kill_when(arguments: list[str], reached: Callable[[], bool]) -> None:
    """Start the command in a process of its own, and kill it at a point that it cannot pass."""
    process: BaseProcess = SERVER.Process(target=run_cli, args=(arguments,))
    process.start()
    end = time.monotonic() + LIMIT_S
    while not reached():
        assert process.is_alive(), "the command has passed the point"
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.join()


def storage_faults(cloud: LocalCloud, part: str) -> None:
    """Reject the writes of a file for as long as the rule is set; the client repeats them."""
    rule = {"match": part, "operations": ["objects.insert"], "do": "http", "code": 503}
    cloud.faults(storage={"rules": [rule]})


def rejected(cloud: LocalCloud) -> bool:
    return bool(cloud.counters().get("storage", {}).get("faults"))


@pytest.mark.parametrize("again", ["batch run", "batch collect"])
def test_finds_the_job_of_a_process_killed_before_it_was_recorded(cloud: LocalCloud, place: str, again: str) -> None:
    arguments = command(place, f"out-{secrets.token_hex(4)}")
    storage_faults(cloud, "/job.json")
    kill_when(arguments, lambda: rejected(cloud))
    (job,) = cloud.batch_jobs()
    cloud.faults(storage={})
    code, out, err = run_cli(
        arguments if again == "batch run" else ["batch", "collect", f"--work_dir={place}/runs", "--batch_poll_s=0.1"]
    )
    assert (code, "1: 1 OK, 0 failed" in out) == (0, True), err
    assert job["name"] in out
    assert list(cloud.counters()["batch"]["created"].values()) == [1]
    assert cloud.counters()["batch"]["paid"] == 1


def test_creates_the_job_of_a_process_killed_before_the_request_arrived(cloud: LocalCloud, place: str) -> None:
    arguments = command(place, f"out-{secrets.token_hex(4)}")
    cloud.faults(batch={"calls": [{"do": "http", "code": 503}]})
    kill_when(arguments, lambda: bool(cloud.counters().get("batch", {}).get("calls", {}).get("create")))
    assert cloud.batch_jobs() == []
    cloud.faults(batch={})
    code, out, err = run_cli(arguments)
    assert (code, "1: 1 OK, 0 failed" in out) == (0, True), err
    assert list(cloud.counters()["batch"]["created"].values()) == [1]
    assert cloud.counters()["batch"]["paid"] == 1
