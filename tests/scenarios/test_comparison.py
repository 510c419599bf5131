"""The comparison with other ways runs, and imagebeam loses and repeats nothing in it."""

import pytest

from benchmarks.comparison import compare

pytestmark = pytest.mark.long
UNITS = 20


@pytest.mark.timeout(400)
def test_imagebeam_loses_and_repeats_nothing_where_others_do() -> None:
    rows, twice, mismatched = compare(UNITS)
    assert (rows.imagebeam, twice.imagebeam, mismatched.imagebeam) == (UNITS, 0, 0)
    assert rows.value <= UNITS
    assert twice.value == UNITS, "the job that was killed after its creation was paid, and so was the next one"
    assert mismatched.value > 0
