"""Schemas of Imagery Insights tables as REST JSON."""

from typing import Any


def field(name: str, kind: str, *fields: dict[str, Any], mode: str = "NULLABLE") -> dict[str, Any]:
    return {"name": name, "type": kind, "mode": mode} | ({"fields": list(fields)} if fields else {})


def place(name: str) -> dict[str, Any]:
    return field(name, "RECORD", field("latitude", "FLOAT"), field("longitude", "FLOAT"))


POSE = field(
    "camera_pose",
    "RECORD",
    *(field(name, "FLOAT") for name in ("latitude", "longitude", "altitude", "heading", "pitch", "roll")),
)
CORNER = (field("x", "FLOAT"), field("y", "FLOAT"))
BBOX = field("bbox", "RECORD", field("lo", "RECORD", *CORNER), field("hi", "RECORD", *CORNER))

ASSET_OBSERVATIONS = [
    field("snapshot_id", "STRING"),
    field("asset_id", "STRING"),
    field("asset_type", "STRING"),
    place("location"),
    field("detection_time", "TIMESTAMP"),
    field("observation_id", "STRING"),
    BBOX,
    POSE,
    field("capture_time", "TIMESTAMP"),
    field("gcs_uri", "STRING"),
    field("map_url", "STRING"),
]
PANO_OBSERVATIONS = [
    field("capture_id", "STRING"),
    field("pano_id", "STRING"),
    field("observation_id", "STRING"),
    field("snapshot_id", "STRING"),
    field("capture_time", "TIMESTAMP"),
    place("capture_location"),
    POSE,
    field("map_url", "STRING"),
    field("gcs_uri", "STRING"),
]
ASSETS = [field("asset_id", "STRING"), field("asset_type", "STRING"), place("location")]
SNAPSHOTS = [field("snapshot_id", "STRING"), field("creation_time", "TIMESTAMP")]
