"""The tables of an Imagery Insights / Street View Insights dataset, column by column.

Source: Google, "Schema reference". Contains the table names of 2025 (``latest_observations``) and those of 2026
(``cropped_observations_latest``), as in a dataset of an early subscription.
"""

from collections.abc import Mapping
from typing import Final

from google.cloud.bigquery import SchemaField

Schema = tuple[SchemaField, ...]

#: Name of the dataset of a subscription in the US.
DATASET: Final = "imagery_insights___us"
#: Location of the dataset, a multi-region, and of the queries.
LOCATION: Final = "US"


def _struct(name: str, *fields: str | SchemaField) -> SchemaField:
    """Return a STRUCT column; fields given by name only are FLOAT64."""
    inner = [field if isinstance(field, SchemaField) else SchemaField(field, "FLOAT") for field in fields]
    return SchemaField(name, "RECORD", fields=inner)


_PLACE: Final = ("latitude", "longitude")
_POSE: Final = _struct("camera_pose", *_PLACE, "altitude", "heading", "pitch", "roll")

_OBSERVATIONS: Final[Schema] = (
    SchemaField("snapshot_id", "STRING"),
    SchemaField("asset_id", "STRING"),
    SchemaField("asset_type", "STRING"),
    _struct("location", *_PLACE),
    SchemaField("detection_time", "TIMESTAMP"),
    SchemaField("observation_id", "STRING"),
    _struct("bbox", _struct("lo", "x", "y"), _struct("hi", "x", "y")),
    _POSE,
    SchemaField("capture_time", "TIMESTAMP"),
    SchemaField("gcs_uri", "STRING"),
    SchemaField("map_url", "STRING"),
)
_PREFIXED: Final[Schema] = (*_OBSERVATIONS, SchemaField("pano_id", "STRING"))
_PANO: Final[Schema] = (
    SchemaField("capture_id", "STRING"),
    SchemaField("pano_id", "STRING"),
    SchemaField("observation_id", "STRING"),
    SchemaField("snapshot_id", "STRING"),
    SchemaField("capture_time", "TIMESTAMP"),
    _struct("capture_location", *_PLACE),
    _POSE,
    SchemaField("map_url", "STRING"),
    SchemaField("gcs_uri", "STRING"),
)
_ASSETS: Final[Schema] = (
    SchemaField("asset_id", "STRING"),
    SchemaField("asset_type", "STRING"),
    _struct("location", *_PLACE),
    SchemaField("detection_time", "TIMESTAMP"),
    SchemaField("snapshot_id", "STRING"),
)
_SNAPSHOTS: Final[Schema] = (
    SchemaField("snapshot_id", "STRING"),
    SchemaField("subscription_id", "STRING"),
    SchemaField("creation_time", "TIMESTAMP"),
    SchemaField("product_types", "STRING", mode="REPEATED"),
)

#: Columns of all tables.
TABLES: Final[Mapping[str, Schema]] = {
    "snapshots": _SNAPSHOTS,
    "all_observations": _OBSERVATIONS,
    "latest_observations": _OBSERVATIONS,
    "all_assets": _ASSETS,
    "latest_assets": _ASSETS,
    "cropped_observations_all": _PREFIXED,
    "cropped_observations_latest": _PREFIXED,
    "cropped_assets_all": _ASSETS,
    "cropped_assets_latest": _ASSETS,
    "full_frame_observations_all": _PREFIXED,
    "full_frame_observations_latest": _PREFIXED,
    "full_frame_assets_all": _ASSETS,
    "full_frame_assets_latest": _ASSETS,
    "pano_observations_all": _PANO,
    "pano_observations_latest": _PANO,
}
