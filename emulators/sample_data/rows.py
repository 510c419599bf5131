"""The rows of the sample dataset: a small Street View Insights dataset with typical defects.

The distributions are those of a real snapshot, as documented by "Understand your dataset" of Google's
insights-samples: observations per asset, assets without observations, years of capture.
"""

import math
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from imagebeam.emulators.sample_data.images import Picture, as_png, photos, render, views

#: Bucket that holds the images.
BUCKET: Final = "imagebeam-local-frames"
#: Number of assets with 1 to 10 observations.
OBSERVATIONS_PER_ASSET: Final = (79_458, 55_561, 34_116, 19_264, 10_888, 5_246, 2_122, 768, 308, 95)
#: Number of assets without observations, in addition to the 207,826 above.
ASSETS_WITHOUT_IMAGES: Final = 292_705
#: Minimum number of units at which every number of observations per asset occurs.
EVERY_SIZE_FROM: Final = 200
#: Minimum number of units of a dataset with defects.
DEFECTS_FROM: Final = 10
#: Rows of each product's own tables.
PRODUCT_ROWS: Final = 60

_YEARS: Final = {2015: 5_945, **dict.fromkeys(range(2016, 2022), 13_185), 2022: 47_086, 2023: 27_432, 2024: 28_705,
                 2025: 292_344}  # fmt: skip
#: Asset classes: share, and suffixes of the IDs of assets and observations.
_CLASSES: Final = {
    "ASSET_CLASS_ROAD_SIGN": (0.79, "ffff005f", "00110060"),
    "ASSET_CLASS_UTILITY_POLE": (0.21, "ffff01ee", "00250082"),
}
#: Asset classes in the tables of 2026.
_NEWER_CLASSES: Final = {**_CLASSES, "ASSET_CLASS_MAINTENANCE_COVER": (0.2, "ffff0211", "00310094")}
_CENTER: Final = (30.2672, -97.7431)
#: Ages of the snapshots in days. Real ones expire after about 35 days, so the older one expires soon.
_AGES: Final = (30, 2)
_NULL_PANO_IDS: Final = 0.69
_FRAMES: Final = 7  # of a panorama
_ID_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a dataset.

    Attributes:
        tables: Rows by table.
        objects: By object name, the recipe of the image and whether its file is truncated.
    """

    tables: Mapping[str, Sequence[Row]]
    objects: Mapping[str, tuple[Picture, bool]]

    def data(self, name: str) -> bytes:
        """Return the content of an object."""
        picture, truncated = self.objects[name]
        data = render(picture)
        return data[: len(data) // 2] if truncated else data


@dataclass(slots=True)
class _Observation:
    ident: str
    picture: Picture
    captured: datetime
    fixed: Row  # the columns that no snapshot changes
    uris: dict[str, str | None]  # by snapshot


@dataclass(slots=True)
class _Asset:
    ident: str
    kind: str
    place: Row
    detected: datetime
    observations: list[_Observation]


def build_content(units: int, seed: int) -> Content:
    """Build a dataset, which depends on the arguments only.

    Args:
        units: Number of rows of ``latest_observations``, at least 1.
        seed: Random seed.
    """
    if units < 1:
        raise ValueError(f"units must be at least 1, not {units}")
    return _DatasetBuilder(units, seed).content()


def observations_per_asset(units: int) -> list[int]:
    """Return the number of observations of each asset: ``units`` in total, distributed as in a real snapshot."""
    whole = sum(OBSERVATIONS_PER_ASSET)
    mean = sum(size * count for size, count in enumerate(OBSERVATIONS_PER_ASSET, 1)) / whole
    missing = [count / whole * units / mean for count in OBSERVATIONS_PER_ASSET]
    left = units
    sizes: list[int] = []

    def take(size: int) -> None:
        nonlocal left
        sizes.append(size)
        missing[size - 1] -= 1
        left -= size

    if units >= EVERY_SIZE_FROM:
        for size in range(len(missing), 0, -1):
            take(size)
    while left:
        take(max(range(1, min(left, len(missing)) + 1), key=lambda size: missing[size - 1]))
    return sizes


class _DatasetBuilder:
    def __init__(self, units: int, seed: int) -> None:
        self._units = units
        self._rng = random.Random(f"{seed} {units}")  # noqa: S311  (reproducible, no secret)
        self._earlier, self._newest = self._uuid(), self._uuid()
        self._objects: dict[str, tuple[Picture, bool]] = {}
        self._photo = self._rng.randrange(len(photos()))

    def content(self) -> Content:
        assets = [self._asset(size) for size in self._shuffled(observations_per_asset(self._units))]
        gone = [self._asset(1) for _ in range(math.ceil(self._units / 50))]
        recurring = self._first(assets, math.ceil(self._units / 10))
        in_earlier = [one for asset in recurring for one in asset.observations]
        eligible = [one for asset in assets[len(recurring) :] for one in asset.observations]
        self._store(assets, self._newest, eligible if self._units >= DEFECTS_FROM else [])
        self._store([*recurring, *gone], self._earlier, [])
        spoilt = {one.ident for one in eligible if not self._sound(one)}
        pool = in_earlier + [one for one in eligible if one.ident not in spoilt]
        tables = self._legacy(assets, recurring, gone)
        for product, inside in (("cropped", False), ("full_frame", True)):
            tables |= self._product(product, pool, box_inside=inside)
        tables |= self._panoramas(pool)
        tables["snapshots"] = self._snapshots()
        return Content(tables, self._objects)

    # Assets and observations

    def _asset(self, size: int, classes: Mapping[str, tuple[float, str, str]] = _CLASSES) -> _Asset:
        rng = self._rng
        kind = rng.choices(list(classes), [share for share, _, _ in classes.values()])[0]
        _, ending, observation_ending = classes[kind]
        place = self._place()
        self._photo += 1
        pictures = views(photos()[self._photo % len(photos())], size, rng)
        observations = [self._observation(picture, place, observation_ending) for picture in pictures]
        detected = max((one.captured for one in observations), default=self._captured())
        return _Asset(f"t1:{self._hex(32)}:{ending}", kind, place, detected, observations)

    def _observation(self, picture: Picture, place: Row, ending: str) -> _Observation:
        captured = self._captured()
        if self._rng.random() < 0.1:
            picture = as_png(picture)
        fixed = {
            "bbox": self._box(picture, inside=self._rng.random() < 0.5),
            "camera_pose": self._pose(place, pitch=self._rng.uniform(-85, -80)),
            "capture_time": _text(captured),
        }
        return _Observation(f"o1:{self._hex(32)}:{ending}", picture, captured, fixed, {})

    def _box(self, picture: Picture, *, inside: bool) -> Row:
        """Return a bounding box inside the image, or outside of it in a larger source frame."""
        width, height = picture.size if inside else (3648, 5472)
        x0, y0 = self._rng.uniform(0, width * 0.6), self._rng.uniform(0, height * 0.6)
        if not inside:  # outside the image, regardless of its size
            x0, y0 = x0 + picture.size[0], y0 + picture.size[1]
        x1, y1 = x0 + width * self._rng.uniform(0.1, 0.35), y0 + height * self._rng.uniform(0.1, 0.35)
        return {"lo": {"x": round(x0, 2), "y": round(y0, 2)}, "hi": {"x": round(x1, 2), "y": round(y1, 2)}}

    def _pose(self, place: Row, *, pitch: float) -> Row:
        """Return the pose of a camera some meters away that points at the place."""
        rng = self._rng
        heading, degrees = rng.uniform(-180, 180), rng.uniform(4, 25) / 111_320
        east = math.sin(math.radians(heading)) / math.cos(math.radians(place["latitude"]))
        return {
            "latitude": round(place["latitude"] - degrees * math.cos(math.radians(heading)), 7),
            "longitude": round(place["longitude"] - degrees * east, 7),
            "altitude": round(rng.uniform(140, 260), 3),
            "heading": round(heading, 3),
            "pitch": round(pitch, 3),
            "roll": round(rng.uniform(-3, 3), 3),
        }

    def _place(self) -> Row:
        latitude, longitude = (round(one + self._rng.uniform(-0.04, 0.04), 7) for one in _CENTER)
        return {"latitude": latitude, "longitude": longitude}

    def _captured(self) -> datetime:
        year = self._rng.choices(list(_YEARS), list(_YEARS.values()))[0]
        start = datetime(year, 1, 1, 15, 0, tzinfo=UTC)  # mornings and afternoons in the local time zone
        return start + timedelta(days=self._rng.randrange(330), seconds=self._rng.randrange(7 * 3600))

    def _captures(self) -> Iterator[str]:
        while True:
            yield "".join(self._rng.choices(_ID_LETTERS, k=22))

    def _first(self, assets: Sequence[_Asset], observations: int) -> list[_Asset]:
        """Return the first assets with at least this total number of observations."""
        found: list[_Asset] = []
        for asset in assets:
            if sum(len(one.observations) for one in found) >= observations:
                break
            found.append(asset)
        return found

    # Objects

    def _store(self, assets: Sequence[_Asset], snapshot: str, eligible: Sequence[_Observation]) -> None:
        """Assign objects in a snapshot to observations, and apply the defects."""
        nulls, corrupt, missing, disguised = self._choose_defects(eligible)
        for asset in assets:
            for one in asset.observations:
                if one.ident in nulls:
                    one.uris[snapshot] = None
                    continue
                picture = as_png(one.picture) if one.ident in disguised else one.picture
                ending = "png" if picture.kind == "PNG" and one.ident not in disguised else "jpg"
                name = f"{snapshot}/v0/{one.ident}.{ending}"
                one.uris[snapshot] = f"gs://{BUCKET}/{name}"
                if one.ident not in missing:
                    self._objects[name] = (picture, one.ident in corrupt)

    def _choose_defects(self, eligible: Sequence[_Observation]) -> tuple[set[str], set[str], set[str], set[str]]:
        """Choose the observations without a URI, with a corrupt or missing object, and with a PNG named ``.jpg``."""
        chosen = [one.ident for one in self._rng.sample(eligible, min(5, len(eligible)))]
        return set(chosen[:2]), set(chosen[2:3]), set(chosen[3:4]), set(chosen[4:])

    def _sound(self, one: _Observation) -> bool:
        uri = one.uris[self._newest]
        found = None if uri is None else self._objects.get(uri.removeprefix(f"gs://{BUCKET}/"))
        return found is not None and not found[1]

    # Tables

    def _snapshots(self) -> list[Row]:
        subscription = self._uuid()
        today = datetime.now(UTC).replace(hour=6, minute=0, second=0, microsecond=0)
        return [
            {
                "snapshot_id": snapshot,
                "subscription_id": subscription,
                "creation_time": _text(today - timedelta(days=age)),
                "product_types": ["SV_CROPPED_ASSETS", "SV_FULL_FRAME_ASSETS", "SV_PANO"],
            }
            for snapshot, age in zip((self._earlier, self._newest), _AGES, strict=True)
        ]

    def _legacy(
        self, assets: Sequence[_Asset], recurring: Sequence[_Asset], gone: Sequence[_Asset]
    ) -> dict[str, list[Row]]:
        empty = [self._asset(0) for _ in range(self._count_without_images(len(assets)))]
        latest = self._shuffled(_observation_rows(assets, self._newest))
        latest_assets = self._shuffled(_asset_rows([*assets, *empty], self._newest))
        before = [*recurring, *gone]
        return {
            "latest_observations": latest,
            "all_observations": self._shuffled([*latest, *_observation_rows(before, self._earlier)]),
            "latest_assets": latest_assets,
            "all_assets": [*latest_assets, *_asset_rows([*before, *empty[::3]], self._earlier)],
        }

    def _product(self, product: str, pool: Sequence[_Observation], *, box_inside: bool) -> dict[str, list[Row]]:
        """Return the tables of a product: new assets and observations with existing images."""
        sizes = self._shuffled(observations_per_asset(min(PRODUCT_ROWS, self._units)))
        assets = [self._asset(size, _NEWER_CLASSES) for size in sizes]
        shown = _cycle(pool)
        for asset in assets:
            for one in asset.observations:
                other = next(shown)
                one.picture, one.uris = other.picture, other.uris
                one.fixed["bbox"] = self._box(one.picture, inside=box_inside)
                one.fixed["pano_id"] = None if self._rng.random() < 0.5 else next(self._captures())
        empty = [self._asset(0, _NEWER_CLASSES) for _ in range(self._count_without_images(len(assets)))]
        before = [asset for asset in assets if all(self._earlier in one.uris for one in asset.observations)]
        latest, latest_assets = (
            _observation_rows(assets, self._newest),
            _asset_rows([*assets, *empty], self._newest),
        )
        return {
            f"{product}_observations_latest": latest,
            f"{product}_observations_all": [*latest, *_observation_rows(before, self._earlier)],
            f"{product}_assets_latest": latest_assets,
            f"{product}_assets_all": [*latest_assets, *_asset_rows(before, self._earlier)],
        }

    def _panoramas(self, pool: Sequence[_Observation]) -> dict[str, list[Row]]:
        """Return the frames of panoramas: seven per capture, the last one of the sky, without assets."""
        count = min(PRODUCT_ROWS, self._units)
        captures = math.ceil(count / _FRAMES)
        unnamed = round(_NULL_PANO_IDS * captures)
        shown, idents = _cycle(pool), self._captures()
        latest: list[Row] = []
        earlier: list[Row] = []
        for number in range(captures):
            capture, pano = next(idents), None if number < unnamed else next(idents)
            place, captured = self._place(), self._captured()
            for frame in range(min(_FRAMES, count - len(latest))):
                other = next(shown)
                row = {
                    "capture_id": capture,
                    "pano_id": pano,
                    "observation_id": f"o1:{pano or capture}_{frame}:5001ee",
                    "snapshot_id": self._newest,
                    "capture_time": _text(captured),
                    "capture_location": place,
                    "camera_pose": self._pose(place, pitch=90.0 if frame == _FRAMES - 1 else 0.0),
                    "map_url": _map_url(place),
                    "gcs_uri": other.uris[self._newest],
                }
                latest.append(row)
                if self._earlier in other.uris:
                    earlier.append(row | {"snapshot_id": self._earlier, "gcs_uri": other.uris[self._earlier]})
        return {"pano_observations_latest": latest, "pano_observations_all": [*latest, *earlier]}

    # Random values

    def _count_without_images(self, assets: int) -> int:
        return round(assets * ASSETS_WITHOUT_IMAGES / sum(OBSERVATIONS_PER_ASSET))

    def _hex(self, digits: int) -> str:
        return f"{self._rng.getrandbits(4 * digits):0{digits}x}"

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _shuffled(self, items: Sequence[Any]) -> list[Any]:
        return self._rng.sample(items, len(items))


def _observation_rows(assets: Sequence[_Asset], snapshot: str) -> list[Row]:
    rows = []
    for asset in assets:
        detected = max((one.captured for one in asset.observations), default=asset.detected)
        rows += [
            {
                "snapshot_id": snapshot,
                "asset_id": asset.ident,
                "asset_type": asset.kind,
                "location": asset.place,
                "detection_time": _text(detected),
                "observation_id": one.ident,
                "gcs_uri": one.uris[snapshot],
                "map_url": _map_url(asset.place),
                **one.fixed,
            }
            for one in asset.observations
        ]
    return rows


def _asset_rows(assets: Sequence[_Asset], snapshot: str) -> list[Row]:
    return [
        {
            "asset_id": asset.ident,
            "asset_type": asset.kind,
            "location": asset.place,
            "detection_time": _text(asset.detected),
            "snapshot_id": snapshot,
        }
        for asset in assets
    ]


def _cycle(pool: Sequence[_Observation]) -> Iterator[_Observation]:
    while True:
        yield from pool


def _map_url(place: Row) -> str:
    return f"https://www.google.com/maps/search/{place['latitude']},{place['longitude']}"


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
