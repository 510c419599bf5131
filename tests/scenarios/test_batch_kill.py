"""A kill at any time loses nothing and pays nothing twice."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path

import pytest
from support.batch_runs import answers, batch_arguments, created, paid, work_dir
from support.jobs import Job, make_job, run_cli

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.pipeline.batch import state as batch_state

pytestmark = pytest.mark.long

KILLS = 5
#: Its children begin with everything imported, so that a moment of their work is hit and not their start.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["imagebeam.pipeline.jobs.classify", "imagebeam.pipeline.cli.main"])
#: Rows that the first round's jobs fail for a while: the second round asks about them.
BUSY = (1, 4, 5)


def work_on(job: Job) -> list[str]:
    """What a person, or cron, would start now."""
    if batch_state.list_run_ids(work_dir(job), ended=True):
        return ["batch", "collect", f"--work_dir={work_dir(job)}", "--batch_poll_s=0.05"]
    return batch_arguments(job, "--batch_lines=2", "--batch_poll_s=0.05")


def final_counts(job: Job) -> list[tuple[int, ...]]:
    """Return the final counts of a job's runs from the table ``runs``."""
    rows = job.query("SELECT units_in, ok, failed, skipped, calls FROM {results}.runs WHERE event = 'end'")
    return [tuple(int(value) for value in row.values()) for row in rows]


@pytest.mark.parametrize("seed", range(4))
def test_another_process_continues_after_a_kill(cloud: LocalCloud, tmp_path: Path, seed: int) -> None:
    job = make_job(cloud, tmp_path, 6)
    rules = [{"match": job.uri(place), "times": 1, "do": "http", "code": 503} for place in BUSY]
    cloud.faults(batch={"jobs": [{"pending_s": 0.3, "running_s": 0.3}]}, vertex={"rules": rules})
    chance = random.Random(seed)
    for _ in range(KILLS):
        process = SERVER.Process(target=run_cli, args=(work_on(job),))
        process.start()
        process.join(chance.uniform(0.3, 2.6))
        process.kill()
        process.join()
    if batch_state.list_run_ids(work_dir(job)) or not batch_state.list_run_ids(work_dir(job), ended=True):
        code, out, err = run_cli(work_on(job))
        assert code == 0, (out, err)
        assert "all units accounted for" in out
    assert [row["status"] for row in answers(job)] == ["OK"] * 6
    assert final_counts(job) == [(6, 6, 0, 0, 9)], "as if no process had been killed"
    jobs = created(job)
    assert {name.partition("-")[0] for name in jobs} == {"r1", "r2"}
    assert set(jobs.values()) == {1}, "one job for each shard and round"
    assert paid(job) == {job.uri(place): 1 for place in range(6)}
    landed = job.query("SELECT status, COUNT(*) AS n FROM {results}.outcomes GROUP BY status ORDER BY status")
    assert {row["status"]: row["n"] for row in landed} == {"OK": 6, "SUBMITTED": 9, "UNAVAILABLE": 3}


def test_concurrent_processes_do_the_work_once(cloud: LocalCloud, tmp_path: Path) -> None:
    job = make_job(cloud, tmp_path, 6)
    cloud.faults(batch={"jobs": [{"pending_s": 0.5}]})
    assert run_cli(batch_arguments(job, "--batch_lines=3", "--no_wait"))[0] == 0
    processes = [SERVER.Process(target=run_cli, args=(work_on(job),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert final_counts(job) == [(6, 6, 0, 0, 6)], "ended once"
    assert created(job) == {"r1-0000000000-0": 1, "r1-0000000003-0": 1}
    assert paid(job) == {job.uri(place): 1 for place in range(6)}
    landed = job.query("SELECT status, COUNT(*) AS n FROM {results}.outcomes GROUP BY status ORDER BY status")
    assert {row["status"]: row["n"] for row in landed} == {"OK": 6, "SUBMITTED": 6}
