"""The work of every implementation: the same units, task and requests."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

from imagebeam.transforms.core.records import Image, Unit, UnitKind
from imagebeam.transforms.gemini.requests import ImagePart, build_request
from imagebeam.transforms.tasks.catalog import load_models_file, load_task
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Models
from imagebeam.transforms.tasks.task import Task, parse_task

BUCKET = "benchmark-images"
LOCATION = "global"
#: Images per unit of mixed work: successive units differ in size.
MIXED = (1, 7, 2, 10, 3, 1, 5, 1)

_ASSETS = """
name: benchmark_assets
unit: asset
max_images: 10
prompt: How many of these photographs show the same thing?
schema:
  type: object
  properties:
    same: {type: integer, minimum: 0, maximum: 10}
    reason: {type: string}
generation: {max_output_tokens: 512}
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """The work of one process.

    Attributes:
        implementation: Name of the implementation.
        units: Number of units.
        first: Number of the first unit. Processes that share a quota have different units.
        in_flight: Maximum number of concurrent calls, if the implementation has such a setting.
        mixed: Whether units are assets of 1 to 10 images instead of single images.
        seconds: Seconds after which no calls are sent; None for no limit.
    """

    implementation: str
    units: int
    first: int = 0
    in_flight: int = 256
    mixed: bool = False
    seconds: float | None = None

    @property
    def task(self) -> Task:
        """The task."""
        return _task(mixed=self.mixed)

    @property
    def profile(self) -> ModelProfile:
        """The profile of the model."""
        return _models().profile(self.task.model)

    def all_units(self) -> list[Unit]:
        """Return the units."""
        return [make_unit(number, mixed=self.mixed) for number in range(self.first, self.first + self.units)]

    def body(self, unit: Unit) -> dict[str, Any]:
        """Return the request body for a unit, as imagebeam sends it."""
        parts = [ImagePart("image/jpeg", uri=image.uri) for image in unit.images]
        return build_request(self.task, self.profile, unit, parts, {"imagebeam_run": "benchmark"})


def object_name(number: int, image: int = 0) -> str:
    """Return the object name of an image. Each unit has its own, so that calls can be counted per unit."""
    return f"{number // 1000:03d}/{number:06d}_{image}.jpg"


def images_of(number: int, *, mixed: bool) -> int:
    """Return the number of images of a unit."""
    return MIXED[number % len(MIXED)] if mixed else 1


def make_unit(number: int, *, mixed: bool) -> Unit:
    """Create a unit."""
    name = f"o1:{number:032x}"
    return Unit(
        unit_id=name,
        unit_type=UnitKind.ASSET if mixed else UnitKind.OBSERVATION,
        input_digest=hashlib.sha256(name.encode()).hexdigest(),
        images=tuple(
            Image(f"{name}:{index}", f"gs://{BUCKET}/{object_name(number, index)}", "2026-05-01T10:00:00Z", 90.0)
            for index in range(images_of(number, mixed=mixed))
        ),
        asset_id=f"t1:{number:032x}",
        asset_type="ASSET_CLASS_UTILITY_POLE",
        capture_time="2026-05-01T10:00:00Z",
        latitude=52.5,
        longitude=13.4,
    )


@functools.cache
def _models() -> Models:
    return load_models_file()


@functools.cache
def _task(*, mixed: bool) -> Task:
    models = _models()
    if mixed:
        return parse_task(_ASSETS, source="benchmark", default_model=models.default)
    return load_task("image_quality", models, Path("/nonexistent"))  # the shipped task, not a local one
