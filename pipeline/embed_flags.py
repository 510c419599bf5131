"""The flags of ``imagebeam embed``: most are those of classify, some of the same name mean something else here."""

from typing import Final

from imagebeam.pipeline.flags import CLASSIFY, Flag, Group, Kind

# fmt: off
MODEL = Flag(
    "model", Kind.TEXT, "Embedding model. Vectors of two models cannot be compared.",
    Group.ASK, default="gemini-embedding-2", choices=("gemini-embedding-2", "multimodalembedding@001"),
    example="multimodalembedding@001", in_file=False,
)
DIMENSION = Flag(
    "dimension", Kind.INTEGER, "Length of the vectors: 1 to 3072 of gemini-embedding-2; 128, 256, 512 or 1408 of "
    "multimodalembedding@001. Default: the longest.",
    Group.ASK, minimum=1, example="768", in_file=False,
)
UNIT = Flag(
    "unit", Kind.TEXT, "A vector is of one image. Those of an asset's images carry its asset_id.",
    Group.ASK, default="observation", choices=("observation",), example="observation", in_file=False,
)
CROP = Flag(
    "crop", Kind.TEXT, "bbox: embed only what the bounding box shows. Sends the bytes.",
    Group.ASK, default="none", choices=("none", "bbox"), example="bbox", in_file=False,
)
PADDING = Flag(
    "padding", Kind.NUMBER, "Margin around the box, as a share of its longer side.",
    Group.ASK, minimum=0, maximum=1, example="0.1", in_file=False,
)
MAX_SIDE = Flag(
    "max_side", Kind.INTEGER, "Downscale images to so many pixels before they are sent. Sends the bytes.",
    Group.ASK, minimum=64, maximum=8192, example="1024", in_file=False,
)
VECTOR_INDEX = Flag(
    "vector_index", Kind.BOOLEAN, "Make a vector index of the table after the run, if it has none.",
    Group.RESULTS, default=False, example="true", in_file=False,
)
LANE = Flag(
    "lane", Kind.TEXT, "online: one call per image, at the pace of the quota.",
    Group.MODEL, default="online", choices=("online",), example="online", in_file=False,
)
TRANSPORT = Flag(
    "transport", Kind.TEXT, "Send the image's URI or its bytes. auto embeds one image by URI first, a call that is "
    "paid like any other; with --max_calls or --max_cost_usd it sends the bytes.",
    Group.MODEL, default="auto", choices=("auto", "uri", "inline"), example="inline",
)
MAX_RPM = Flag(
    "max_rpm", Kind.INTEGER, "Calls per minute at most. multimodalembedding@001 has a fixed quota: without this flag "
    "its published one is the ceiling (600; 120 in Europe). gemini-embedding-2: what the service grants.",
    Group.LIMITS, minimum=1, example="600",
)

# fmt: on

_OWN: Final = (MODEL, DIMENSION, UNIT, CROP, PADDING, MAX_SIDE, VECTOR_INDEX, LANE, TRANSPORT, MAX_RPM)
_WITHOUT: Final = {"task", "max_images", *(flag.name for flag in CLASSIFY if flag.group is Group.BATCH)}
_NAMES: Final = _WITHOUT | {flag.name for flag in _OWN}

#: Flags of ``imagebeam embed``: its own, and those of classify that are left.
EMBED: Final[tuple[Flag, ...]] = (*_OWN, *(flag for flag in CLASSIFY if flag.name not in _NAMES))
