"""The lease of a task: a BigQuery table that allows one run per task at a time.

Two concurrent runs of a task would pay for every unit twice. Creating a table is atomic, live engines extend its
expiration, and an expired table releases the lease of a run that died. The lease of a process that died on this
machine is taken over immediately.
"""

from __future__ import annotations

import dataclasses
import datetime
import getpass
import os
import re
import socket
from pathlib import Path

import google.api_core.exceptions as api_errors
import orjson

from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import SystemicError, UserError, first_line
from imagebeam.transforms.core.identifiers import TableName

LIFETIME_S = 600.0
EXTEND_EVERY_S = 30.0
_SCHEMA = ({"name": "run_id", "type": "STRING"},)


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lease.

    Attributes:
        run_id: The run.
        who: User name on the machine.
        host: Host name.
        pid: Process id.
        started: Start time of the process in clock ticks since boot, because process ids are reused.
        since: When the lease was acquired, RFC 3339 in UTC.
    """

    run_id: str
    who: str
    host: str
    pid: int
    started: int
    since: str

    def is_dead_here(self) -> bool:
        """Return True if the holder ran on this machine and its process has ended."""
        return self.host == socket.gethostname() and process_start(self.pid) != self.started


def build_holder(run_id: str) -> Holder:
    """Return this process as the holder of a lease."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = str(os.getuid())
    pid = os.getpid()
    now = datetime.datetime.now(datetime.UTC)
    return Holder(run_id, who, socket.gethostname(), pid, process_start(pid) or 0, now.isoformat(timespec="seconds"))


def process_start(pid: int) -> int | None:
    """Return when a process of this machine started, in clock ticks since boot; None if it does not exist."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self").exists() else 0
    return int(stat.rsplit(")", 1)[1].split()[19])


def lease_table(results: TableName, task: str) -> TableName:
    """Return the lease table of a task, in the results dataset."""
    return dataclasses.replace(results, table=f"_lease_{re.sub(r'[^0-9A-Za-z_-]', '_', task)}")


def acquire(bq: BigQueryClient, table: TableName, run_id: str, *, me: Holder | None = None) -> None:
    """Acquire the lease for a run. Acquiring it again for the same run succeeds (a retried bundle).

    Args:
        bq: BigQuery client.
        table: See :func:`lease_table`.
        run_id: The run.
        me: The new holder; this process by default.

    Raises:
        UserError: Another run holds the lease; the message has the run, its user and its start time.
        SystemicError: BigQuery cannot be used, or other runs repeatedly acquire the lease.
    """
    mine = me or build_holder(run_id)
    for _ in range(3):
        description = orjson.dumps(dataclasses.asdict(mine)).decode()
        if bq.create_table_once(table, expires=_expiry(), description=description, schema=_SCHEMA):
            return
        other = read_holder(bq, table)
        if other is None:
            continue  # released between the two calls
        if other.run_id == run_id and not other.is_dead_here():
            return
        # A dead process of this same run is replaced too, so that no other process takes over the lease.
        if not other.is_dead_here():
            raise UserError(format_held(other, table))
        bq.drop_table(table)
    raise SystemicError(f"other runs repeatedly acquired the lease {table.dotted}; try again")


def format_held(other: Holder, table: TableName) -> str:
    """Return the message for a lease that another run holds."""
    return (
        f"run {other.run_id} of this task is already in progress ({other.who} on {other.host}, since {other.since}); "
        f"wait for it to end; if its process died, drop table {table.dotted} or wait {LIFETIME_S / 60:.0f} minutes"
    )


def read_holder(bq: BigQueryClient, table: TableName) -> Holder | None:
    """Return the holder of the lease, or None if the lease is free."""
    try:
        found = bq.client.get_table(table.dotted)
    except api_errors.NotFound:
        return None
    except api_errors.GoogleAPIError as error:
        raise SystemicError(f"reading the lease {table.dotted}: {first_line(error)}") from None
    try:
        return Holder(**orjson.loads(found.description or "{}"))
    except (TypeError, ValueError):
        return Holder("unknown", "unknown", "unknown", 0, 0, "unknown")


def extend(bq: BigQueryClient, table: TableName, run_id: str) -> bool:
    """Extend the lease; return False if this run no longer holds it."""
    other = read_holder(bq, table)
    if other is None or other.run_id != run_id:
        return False
    found = bq.client.get_table(table.dotted)
    found.expires = _expiry()
    bq.client.update_table(found, ["expires"])
    return True


def release(bq: BigQueryClient, table: TableName, run_id: str) -> None:
    """Release the lease if this run holds it."""
    other = read_holder(bq, table)
    if other is not None and other.run_id == run_id:
        bq.drop_table(table)


def _expiry() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=LIFETIME_S)
