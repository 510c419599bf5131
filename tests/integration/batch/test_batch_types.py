"""Images whose names have another type than their bytes: the batch lane answers them, as the online lane does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.batch_runs import batch, created, paid, statuses
from support.jobs import Job, make_job
from support.vertex_local import picture

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms import image_types

PNG, GIF = 9, 10
OTHERS = {PNG: picture("PNG"), GIF: picture("GIF")}
ROWS: list[dict[str, Any]] = [{"data": OTHERS[place]} if place in OTHERS else {} for place in range(12)]
#: Neither can be sent: the online lane reports the GIF as unsupported, too.
FAILED = {"IMAGE_ERROR/UNSUPPORTED": 1}


@pytest.fixture(scope="module")
def mixed(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Twelve images named .jpg, of which one is a PNG and one a GIF."""
    return make_job(cloud, tmp_path_factory.mktemp("mixed"), ROWS)


@pytest.fixture
def no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read no image before the first round: in a large source, the sample does not have the rare ones."""
    monkeypatch.setattr(image_types, "SAMPLE", 0)


def fresh(job: Job, name: str) -> Job:
    return dataclasses.replace(job, own_results=f"{job.name}_{name}")


@pytest.mark.usefixtures("no_sample")
def test_the_next_round_sends_the_right_type(mixed: Job) -> None:
    job = fresh(mixed, "rounds")
    summary = batch(job)
    assert (summary["exit_code"], summary["problems"]) == (0, []), summary["err"]
    assert (summary["counted"]["ok"], summary["counted"]["failed"]) == (11, FAILED)
    assert created(job) == {"r1-0000000000-0": 1, "r2-0000000000-0": 1}
    assert paid(job)[job.uri(PNG)] == 1, "the rejected row is free"
    rows = job.query(f"SELECT status, reason FROM {{results}}.outcomes WHERE unit_id = 'o1:{PNG:032x}:00250082'")
    found = {(row["status"], row["reason"]) for row in rows}
    assert found == {("SUBMITTED", None), ("UNAVAILABLE", "WRONG_TYPE"), ("OK", None)}
    online = fresh(mixed, "online")
    assert online.run()["counted"]["failed"] == FAILED
    assert statuses(online) == statuses(job)


@pytest.mark.usefixtures("no_sample")
def test_compares_every_image_on_request(mixed: Job) -> None:
    job = fresh(mixed, "all")
    summary = batch(job, "--batch_check_types=all")
    assert (summary["exit_code"], summary["counted"]["ok"], summary["counted"]["failed"]) == (0, 11, FAILED)
    assert created(job) == {"r1-0000000000-0": 1}


@pytest.mark.long
def test_a_wrong_type_in_the_sample_compares_all_of_it(
    cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_types, "SAMPLE", 2)
    job = make_job(cloud, tmp_path, [{"data": picture("PNG")} if place else {} for place in range(10)])
    summary = batch(job)
    assert (summary["exit_code"], summary["counted"]["ok"]) == (0, 10), summary["err"]
    assert created(job) == {"r1-0000000000-0": 1}


@pytest.mark.long
@pytest.mark.usefixtures("no_sample")
def test_a_wrong_type_without_another_round_remains(mixed: Job) -> None:
    job = fresh(mixed, "one_round")
    summary = batch(job, "--batch_rounds=1")
    assert summary["counted"]["failed"] == {"UNAVAILABLE/WRONG_TYPE": 1, **FAILED}
    rest = batch(job)
    assert (rest["source"]["remaining"], rest["counted"]["ok"], rest["problems"]) == (1, 1, []), rest["err"]
