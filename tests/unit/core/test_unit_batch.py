"""Unit batches: units round-trip."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st

from imagebeam.transforms.core.records import Image, Unit
from imagebeam.transforms.core.unit_batch import pack, unpack

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
number = st.floats(allow_nan=False, allow_infinity=False)
images = st.builds(
    Image,
    observation_id=text,
    uri=st.none() | text,
    capture_time=st.none() | text,
    heading=st.none() | number,
    bbox=st.none() | st.tuples(number, number, number, number),
)
units = st.builds(
    Unit,
    unit_id=text,
    unit_type=st.sampled_from(["observation", "asset"]),
    input_digest=text,
    images=st.lists(images, max_size=3).map(tuple),
    latitude=st.none() | number,
    extra=st.dictionaries(text, st.none() | text | st.integers(-(2**53), 2**53) | st.booleans(), max_size=3),
)


@hypothesis.given(st.lists(units, max_size=5))
def test_units_round_trip_through_a_batch(packed: list[Unit]) -> None:
    batch = pack(packed)
    assert unpack(batch) == packed
    assert batch.size == len(packed)


@hypothesis.given(st.lists(units, max_size=4), st.lists(units, max_size=4))
def test_batch_id_depends_on_the_content(left: list[Unit], right: list[Unit]) -> None:
    assert (pack(left).batch_id == pack(right).batch_id) == (left == right)
