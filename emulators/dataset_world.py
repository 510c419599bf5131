"""What the local dataset says about the world: assets, observations, captures, with real proportions.

The proportions are those of one snapshot that Google's sample notebook ``Understand_your_dataset`` shows:
500,531 assets, of which 292,705 have no image, and 480,620 observations.
"""

import dataclasses
import datetime
import math
import random
import string
from typing import Any, Final

Row = dict[str, Any]

#: Assets by how many observations they have.
SIZES: Final = {1: 79_458, 2: 55_561, 3: 34_116, 4: 19_264, 5: 10_888, 6: 5_246, 7: 2_122, 8: 768, 9: 308, 10: 95}
#: Assets without an observation for each asset that has one.
WITHOUT: Final = 292_705 / 207_826
#: From so many observations on, one asset has ten of them.
ENOUGH_FOR_TEN: Final = 100

#: Share of each capture year (the years 2016 to 2021 together have 79,108).
_YEARS: Final = {
    2015: 5_945, **dict.fromkeys(range(2016, 2022), 13_185), 2022: 47_086, 2023: 27_432, 2024: 28_705, 2025: 292_344,
}  # fmt: skip
#: Asset types with the ends of their asset and observation ids, and how many of four assets they are.
_TYPES: Final = {
    "ASSET_CLASS_ROAD_SIGN": ("ffff005f", "00110060", 3),
    "ASSET_CLASS_UTILITY_POLE": ("ffff01ee", "00250082", 1),
}
_COVER: Final = ("ASSET_CLASS_MAINTENANCE_COVER", "ffff0211", "00310094")
#: Somewhere to be: a few streets of Salt Lake City.
_LATITUDE, _LONGITUDE, _ALTITUDE = 40.7608, -111.8910, 1288.0
_DEGREES_PER_METRE: Final = 1 / 111_320
#: Share of 360° captures that have no panorama id.
_WITHOUT_PANO_ID: Final = 0.69
CAMERAS: Final = 7


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """One image of an asset, without what differs between snapshots.

    Attributes:
        observation_id: ``o1:<32 hex>:<8 hex>``.
        capture_time: RFC 3339.
        bbox: The asset in pixels of the source frame.
        camera_pose: Where the camera was and looked.
    """

    observation_id: str
    capture_time: str
    bbox: Row
    camera_pose: Row


@dataclasses.dataclass(frozen=True, slots=True)
class Asset:
    """A thing in the street.

    Attributes:
        asset_id: ``t1:<32 hex>:<8 hex>``.
        asset_type: ``ASSET_CLASS_…``.
        location: Where it is.
        detected: When it was last seen if it has no observation in the snapshot.
        observations: Its images; none for most assets.
    """

    asset_id: str
    asset_type: str
    location: Row
    detected: str
    observations: tuple[Observation, ...]


def sizes(observations: int) -> list[int]:
    """Return how many observations each asset has, most first; together exactly ``observations``."""
    forced = [10] if observations >= ENOUGH_FOR_TEN else []
    rest = observations - sum(forced)
    scale = rest / sum(size * count for size, count in SIZES.items())
    found = list(forced)
    for size in sorted(SIZES, reverse=True):
        count = rest if size == 1 else min(round(SIZES[size] * scale), rest // size)
        found += [size] * count
        rest -= size * count
    return found


def make_assets(rng: random.Random, observations: int, *, full_frame: bool) -> list[Asset]:
    """Return assets with exactly so many observations, and those without any.

    Args:
        rng: Source of everything random.
        observations: How many, from 1 on.
        full_frame: Whether the images are whole frames of `dataset_photos.LONGEST_SIDE` pixels, in which the
            boxes then are; else the boxes are in frames that the dataset does not have.
    """
    counts = sizes(observations)
    counts += [0] * round(len(counts) * WITHOUT)
    return [_asset(rng, count, full_frame=full_frame) for count in counts]


def make_captures(rng: random.Random, count: int) -> list[Row]:
    """Return the frames of 360° captures, seven each, as rows without snapshot and image."""
    rows: list[Row] = []
    nameless = min(max(round(count * _WITHOUT_PANO_ID), 1), count - 1)
    for number in range(count):
        capture, place, when = _pano_id(rng), _place(rng), capture_time(rng)
        pano = None if number < nameless else _pano_id(rng)
        for camera in range(CAMERAS):
            turn = {"heading": _turned(60.0 * camera), "pitch": 0.0, "roll": 0.0}
            if camera == CAMERAS - 1:  # the last camera points at the sky
                turn = {"heading": 0.0, "pitch": 90.0, "roll": 0.0}
            rows.append(
                {
                    "capture_id": capture,
                    "pano_id": pano,
                    "observation_id": f"o1:{capture}_{camera}:5001ee",
                    "capture_time": when,
                    "capture_location": place,
                    "camera_pose": {**place, "altitude": _ALTITUDE, **turn},
                    "map_url": map_url(place),
                }
            )
    return rows


def capture_time(rng: random.Random) -> str:
    """Return when a photograph was taken, by day."""
    year = rng.choices(list(_YEARS), list(_YEARS.values()))[0]
    moment = datetime.datetime(year, 1, 1, 8, tzinfo=datetime.timezone.utc)
    moment += datetime.timedelta(days=rng.randrange(330), seconds=rng.randrange(10 * 3600))
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def map_url(place: Row) -> str:
    """Return a link for people."""
    return f"https://www.google.com/maps/search/{place['latitude']},{place['longitude']}"


def hex_id(rng: random.Random) -> str:
    """Return 32 hexadecimal digits."""
    return f"{rng.getrandbits(128):032x}"


def _asset(rng: random.Random, count: int, *, full_frame: bool) -> Asset:
    weights = [weight for _, _, weight in _TYPES.values()]
    kind = rng.choices(list(_TYPES), weights)[0]
    ending, observed, _ = _TYPES[kind]
    if full_frame and rng.random() < 0.3:  # a class that only the newer tables know
        kind, ending, observed = _COVER
    elif count > 9:  # no sign has more than nine
        kind = "ASSET_CLASS_UTILITY_POLE"
        ending, observed, _ = _TYPES[kind]
    place = _place(rng)
    return Asset(
        asset_id=f"t1:{hex_id(rng)}:{ending}",
        asset_type=kind,
        location=place,
        detected=capture_time(rng),
        observations=tuple(_observation(rng, place, observed, full_frame=full_frame) for _ in range(count)),
    )


def _observation(rng: random.Random, place: Row, ending: str, *, full_frame: bool) -> Observation:
    if full_frame:
        left, top, wide, high = rng.uniform(40, 90), rng.uniform(30, 60), rng.uniform(60, 120), rng.uniform(60, 110)
    else:
        left, top = rng.uniform(900, 2400), rng.uniform(1400, 2600)
        wide, high = rng.uniform(60, 700), rng.uniform(90, 900)
    return Observation(
        observation_id=f"o1:{hex_id(rng)}:{ending}",
        capture_time=capture_time(rng),
        bbox={
            "lo": {"x": float(round(left)), "y": float(round(top))},
            "hi": {"x": float(round(left + wide)), "y": float(round(top + high))},
        },
        camera_pose=_pose(rng, place, level=full_frame),
    )


def _pose(rng: random.Random, place: Row, *, level: bool) -> Row:
    """A camera some metres away that looks at the place."""
    heading, metres = rng.uniform(-180, 180), rng.uniform(4, 25)
    shrink = math.cos(math.radians(_LATITUDE))
    north, east = (metres * part(math.radians(heading)) * _DEGREES_PER_METRE for part in (math.cos, math.sin))
    return {
        "latitude": round(place["latitude"] - north, 7),
        "longitude": round(place["longitude"] - east / shrink, 7),
        "altitude": round(_ALTITUDE + rng.uniform(-12, 12), 3),
        "heading": round(heading, 4),
        "pitch": round(rng.uniform(-4, 4) if level else rng.uniform(-85, -80), 4),  # as in the cropped product
        "roll": round(rng.uniform(-2, 2), 4),
    }


def _place(rng: random.Random) -> Row:
    return {
        "latitude": round(_LATITUDE + rng.uniform(-0.02, 0.02), 7),
        "longitude": round(_LONGITUDE + rng.uniform(-0.03, 0.03), 7),
    }


def _pano_id(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits + "-_", k=22))


def _turned(heading: float) -> float:
    return (heading + 180) % 360 - 180
