"""Recovers the outcomes of a unit batch whose earlier attempt was lost with its worker."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.records import Answer, Outcome, Status, Unit
from imagebeam.transforms.engine.settings import EngineSettings
from imagebeam.transforms.sql.outcome_queries import answered_units_query

UnitKey = tuple[str, str]


def recover_outcomes(
    bq: BigQueryClient, settings: EngineSettings, batch_id: str, units: Sequence[Unit]
) -> Mapping[UnitKey, Outcome]:
    """Claim a unit batch, and find the outcomes that an earlier attempt recorded. Blocking.

    The first attempt creates the claim object. Only a later one, which finds it, queries BigQuery.

    Args:
        bq: BigQuery client.
        settings: The engine's settings.
        batch_id: Id of the unit batch.
        units: Its units.

    Returns:
        Outcomes by unit id and input digest.
    """
    destination = settings.destination
    if destination is None or destination.claims is None:
        return {}
    if storage.create(storage.join(destination.claims, batch_id), str(os.getpid()).encode()):
        return {}
    task = settings.call_settings.task
    query = answered_units_query(destination.outcomes, task.name, task.version, [unit.unit_id for unit in units])
    by_key = {(unit.unit_id, unit.input_digest): unit for unit in units}
    return {
        key: Outcome(by_key[key], Answer(Status(row["status"]), row.get("reason")))
        for row in bq.query_rows(query)
        if (key := (row["unit_id"], row["input_digest"])) in by_key
    }
