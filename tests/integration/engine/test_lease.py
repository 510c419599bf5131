"""The lease: one run per task at a time, released when its process dies."""

from __future__ import annotations

import dataclasses
import secrets
import subprocess
import sys

import pytest
from google.cloud import bigquery

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName


@pytest.fixture
def place(cloud: LocalCloud) -> tuple[BigQueryClient, TableName]:
    client = bigquery.Client()
    dataset = f"lease_{secrets.token_hex(4)}"
    client.create_dataset(dataset)
    return BigQueryClient(client.project), lease.lease_table(TableName(client.project, dataset, "outcomes"), "poles")


ELSEWHERE = lease.Holder("run-a", "ada", "another-host", 1, 1, "2026-11-21T00:00:00+00:00")


def test_rejects_a_second_run_and_names_the_holder(place: tuple[BigQueryClient, TableName]) -> None:
    lease.acquire(*place, "run-a", me=ELSEWHERE)
    with pytest.raises(UserError, match=r"run-a of this task is already in progress .ada on another-host, since 2026"):
        lease.acquire(*place, "run-b")


def test_acquiring_again_for_the_same_run_succeeds(place: tuple[BigQueryClient, TableName]) -> None:
    lease.acquire(*place, "run-a", me=ELSEWHERE)
    lease.acquire(*place, "run-a")


def test_a_released_lease_can_be_acquired(place: tuple[BigQueryClient, TableName]) -> None:
    lease.acquire(*place, "run-a", me=ELSEWHERE)
    lease.release(*place, "run-b")
    assert lease.read_holder(*place) == ELSEWHERE, "only its own run may release it"
    lease.release(*place, "run-a")
    lease.acquire(*place, "run-b")
    held = lease.read_holder(*place)
    assert held is not None
    assert held.run_id == "run-b"


def test_takes_over_the_lease_of_a_dead_process_on_this_machine(place: tuple[BigQueryClient, TableName]) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    dead = dataclasses.replace(lease.build_holder("run-a"), pid=gone.pid, started=lease.process_start(gone.pid) or 1)
    gone.wait()
    lease.acquire(*place, "run-a", me=dead)
    lease.acquire(*place, "run-b")


def test_extend_returns_false_for_a_lost_lease(place: tuple[BigQueryClient, TableName]) -> None:
    bq, table = place
    lease.acquire(bq, table, "run-a", me=ELSEWHERE)
    before = bq.client.get_table(table.dotted).expires
    assert lease.extend(bq, table, "run-a")
    assert bq.client.get_table(table.dotted).expires >= before
    assert not lease.extend(bq, table, "run-b")
    bq.drop_table(table)
    assert not lease.extend(bq, table, "run-a")


def test_a_reused_process_id_is_a_dead_holder() -> None:
    mine = lease.build_holder("run-a")
    assert not mine.is_dead_here()
    assert dataclasses.replace(mine, started=mine.started + 1).is_dead_here()
    assert not dataclasses.replace(mine, started=mine.started + 1, host="another-host").is_dead_here()
