"""One run per task at a time: a table, created if absent, that every live engine keeps from expiring.

Two runs of one task at once would buy every unit twice. BigQuery's create-if-absent is atomic, and an
expiration frees the lease of a run that died. The lease of a run that died on this very machine is
taken over at once.
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
    """Who holds a lease.

    Attributes:
        run_id: The run.
        who: Account name on the machine.
        host: The machine.
        pid: The process.
        started: When that process started, in clock ticks since boot: a pid alone can be somebody else's.
        since: RFC 3339 in UTC.
    """

    run_id: str
    who: str
    host: str
    pid: int
    started: int
    since: str

    def is_dead_here(self) -> bool:
        """True if it ran on this machine and its process is gone."""
        return self.host == socket.gethostname() and process_start(self.pid) != self.started


def holder(run_id: str) -> Holder:
    """This process as a holder."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = str(os.getuid())
    pid = os.getpid()
    now = datetime.datetime.now(datetime.UTC)
    return Holder(run_id, who, socket.gethostname(), pid, process_start(pid) or 0, now.isoformat(timespec="seconds"))


def process_start(pid: int) -> int | None:
    """When a process of this machine started, in clock ticks since boot; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self").exists() else 0
    return int(stat.rsplit(")", 1)[1].split()[19])


def lease_table(results: TableName, task: str) -> TableName:
    """The lease of a task in the dataset of its results."""
    return dataclasses.replace(results, table=f"_lease_{re.sub(r'[^0-9A-Za-z_-]', '_', task)}")


def acquire(bq: BigQueryClient, table: TableName, run_id: str, *, me: Holder | None = None) -> None:
    """Takes the lease for a run. Taking it again for the same run is no error (a retried bundle).

    Args:
        bq: BigQuery client.
        table: See :func:`lease_table`.
        run_id: The run.
        me: Who takes it; this process by default.

    Raises:
        UserError: Another run holds it: says which, whose and since when.
    """
    mine = me or holder(run_id)
    for _ in range(3):
        created = bq.create_table_once(
            table,
            expires=_expiry(),
            description=orjson.dumps(dataclasses.asdict(mine)).decode(),
            schema=_SCHEMA,
        )
        if created:
            return
        other = read(bq, table)
        if other is None:
            continue  # it ended between the two calls
        if other.run_id == run_id and not other.is_dead_here():
            return
        # Also of a process of this same run: what says that its holder is dead protects nobody.
        if not other.is_dead_here():
            raise UserError(held_line(other, table))
        bq.drop_table(table)
    raise SystemicError(f"the lease {table.dotted} changes hands too fast; try again")


def held_line(other: Holder, table: TableName) -> str:
    """What to say when another run holds the lease."""
    return (
        f"run {other.run_id} of this task is going on ({other.who} on {other.host}, since {other.since}); "
        f"wait for it, or, if it is dead, drop table {table.dotted} or wait {LIFETIME_S / 60:.0f} minutes"
    )


def read(bq: BigQueryClient, table: TableName) -> Holder | None:
    """Who holds the lease; None when nobody does."""
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
    """Keeps the lease from expiring; False when it is no longer this run's."""
    other = read(bq, table)
    if other is None or other.run_id != run_id:
        return False
    found = bq.client.get_table(table.dotted)
    found.expires = _expiry()
    bq.client.update_table(found, ["expires"])
    return True


def release(bq: BigQueryClient, table: TableName, run_id: str) -> None:
    """Gives the lease back, if it is this run's."""
    other = read(bq, table)
    if other is not None and other.run_id == run_id:
        bq.drop_table(table)


def _expiry() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=LIFETIME_S)
