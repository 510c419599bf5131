"""Dependencies are locked, and packages are typed. What is built from them: ``test_distributions.py``."""

import re

import pytest
from packaging.requirements import Requirement
from support.paths import ROOT

PACKAGES = ("pipeline", "transforms", "emulators")


def test_every_direct_dependency_is_locked_within_its_range() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    wanted = [Requirement(text) for text in re.findall(r'^ +"([\w.-]+(?:\[\w+\])?[><=][^"]*)",', setup, re.MULTILINE)]
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = [Requirement(line) for line in lines if not line.startswith("#")]
    pins: dict[str, list[str]] = {}
    for pin in locked:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        pins.setdefault(pin.name.lower(), []).append(specifier.version)
    assert len(wanted) > 15
    for requirement in wanted:
        versions = pins[requirement.name.lower()]
        assert all(version in requirement.specifier for version in versions), requirement.name


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    assert (ROOT / package / "__init__.py").is_file()
