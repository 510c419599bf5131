"""A new dataset on the local BigQuery, for tests of SQL."""

import datetime
import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

from google.cloud import bigquery
from support.insights_schema import ASSET_OBSERVATIONS, ASSETS, SNAPSHOTS

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Unit, UnitKind
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.remaining_query import build_remaining_query, build_source_counts_query
from imagebeam.transforms.sql.selection import QuerySpec, Selection
from imagebeam.transforms.sql.sources import Source, detect_profile, source_of
from imagebeam.transforms.sql.tables import TABLES
from imagebeam.transforms.sql.unit_rows import source_counts_from_row, unit_from_row

TASK, VERSION = "poles", "aaaaaaaaaaaa"


def digest(*observation_ids: str) -> str:
    """Return the expected `input_digest` of these observations."""
    return hashlib.sha256(",".join(observation_ids).encode()).hexdigest()


def observation(observation_id: str, **changes: Any) -> dict[str, Any]:
    """Return a row of an Imagery Insights table."""
    return {
        "observation_id": observation_id,
        "gcs_uri": f"gs://b/s1/v0/{observation_id}.jpg",
        "asset_id": "t1",
        "asset_type": "ASSET_CLASS_UTILITY_POLE",
        "snapshot_id": "s1",
        "capture_time": "2025-06-01T00:00:00Z",
        "detection_time": "2025-06-01T00:00:00Z",
        "location": {"latitude": 52.5, "longitude": 13.4},
        "camera_pose": {"heading": -12.5, "pitch": -80.0, "roll": 0.5, "altitude": 34.0},
        "bbox": {"lo": {"x": 1.0, "y": 2.0}, "hi": {"x": 30.0, "y": 40.5}},
        "map_url": "https://maps.example/1",
        **changes,
    }


def event(unit_id: str, input_digest: str, status: str, reason: str | None = None, **changes: Any) -> dict[str, Any]:
    """Return a row of `outcomes`."""
    return {
        "task": TASK,
        "version": VERSION,
        "unit_id": unit_id,
        "unit_type": "observation",
        "input_digest": input_digest,
        "status": status,
        "reason": reason,
        "observation_ids": [unit_id],
        "image_uris": [],
        "run_id": "r1",
        "answered_at": "2026-01-01T00:00:00Z",
        **changes,
    }


class Found:
    """Result of the source query."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = [row for row in rows if row["unit_id"] is not None]
        self.row_count = len(rows)
        self.counts: SourceCounts = source_counts_from_row(rows[0])
        self.units: dict[str, Unit] = {row["unit_id"]: unit_from_row(row) for row in self.rows}
        self.states: dict[str, str] = {row["unit_id"]: row["state_detail"] for row in self.rows}
        assert all(source_counts_from_row(row) == self.counts for row in rows)


class Lab:
    """A dataset with the results tables."""

    def __init__(self, cloud: LocalCloud) -> None:
        self.project = cloud.project
        self.client = bigquery.Client(project=cloud.project)
        self.bq = BigQueryClient(cloud.project)
        self.dataset = f"lab_{uuid.uuid4().hex}"
        self.client.create_dataset(self.dataset)
        self.outcomes = self.table("outcomes", TABLES["outcomes"].schema)

    def name(self, table: str) -> TableName:
        return TableName(self.project, self.dataset, table)

    def table(self, name: str, schema: Sequence[Any], rows: Sequence[dict[str, Any]] = ()) -> TableName:
        created = self.name(name)
        fields = [bigquery.SchemaField.from_api_repr(dict(field)) for field in schema]
        self.client.create_table(bigquery.Table(created.dotted, schema=fields))
        self.insert(created, rows)
        return created

    def insert(self, table: TableName, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            assert self.client.insert_rows_json(table.dotted, list(rows)) == []

    def source(
        self,
        rows: Sequence[dict[str, Any]],
        *,
        schema: Sequence[Any] = ASSET_OBSERVATIONS,
        snapshots: dict[str, str] | None = None,
        assets: Sequence[dict[str, Any]] | None = None,
        name: str = "latest_observations",
    ) -> Source:
        table = self.table(name, schema, rows)
        times = [{"snapshot_id": key, "creation_time": value} for key, value in (snapshots or {}).items()]
        return source_of(
            detected=detect_profile(table.dotted, list(schema)),
            table=table,
            snapshots=self.table("snapshots", SNAPSHOTS, times) if snapshots else None,
            assets=self.table("latest_assets", ASSETS, assets) if assets is not None else None,
        )

    def rows(self, query: Query) -> list[dict[str, Any]]:
        return self.bq.query_rows(query)

    def remaining(
        self,
        source: Source,
        filters: Filters | None = None,
        *,
        unit: UnitKind = UnitKind.OBSERVATION,
        max_images: int = 10,
        keep_columns: Sequence[str] = (),
        selection: Selection | None = None,
        outcomes: bool = True,
        version: str = VERSION,
    ) -> Found:
        spec = QuerySpec(
            source=source,
            filters=filters or Filters(),
            unit=unit,
            max_images=max_images,
            keep_columns=keep_columns,
            outcomes=self.outcomes if outcomes else None,
            task=TASK,
            version=version,
            selection=selection or Selection(),
        )
        found = Found(self.rows(build_remaining_query(spec)))
        (row,) = self.rows(build_source_counts_query(spec))
        assert source_counts_from_row(row) == found.counts
        assert found.counts.remaining == len(found.rows)
        assert found.row_count == max(1, found.counts.remaining)
        return found


def at(minute: int) -> str:
    """Return a time this many minutes after the start of 2026."""
    return (datetime.datetime(2026, 1, 1) + datetime.timedelta(minutes=minute)).isoformat() + "Z"  # noqa: DTZ001
