"""Parameters of tests that are left to ``make test-long``."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def long_except(short: Collection[object], values: Iterable[object]) -> list[Any]:
    """Return values for ``parametrize``; those that are not in ``short`` have the marker ``long``."""
    return [value if value in short else pytest.param(value, marks=pytest.mark.long) for value in values]
