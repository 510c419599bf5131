"""Fixtures of the whole suite: no test ever sees the developer's own Google credentials."""

import os
from collections.abc import Iterator

import hypothesis
import pytest

from imagebeam.emulators.cloud import LocalCloud

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("imagebeam", deadline=None)
hypothesis.settings.load_profile("imagebeam")

#: Variables through which a developer's machine could reach into a test.
AMBIENT = ("GOOGLE_", "CLOUDSDK_", "GCE_METADATA", "GCLOUD_PROJECT", "NO_GCE_CHECK")


@pytest.fixture(scope="session", autouse=True)
def original_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment without anybody's credentials; tests that do not ask for `cloud` run in it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(AMBIENT) or name.endswith("_EMULATOR_HOST"):
                patch.delenv(name)
        patch.setenv("CLOUDSDK_CONFIG", str(tmp_path_factory.mktemp("no-gcloud")))
        yield dict(os.environ)


@pytest.fixture(scope="session")
def cloud(original_environment: dict[str, str]) -> Iterator[LocalCloud]:
    """The local Google Cloud, started once; every test that asks for it finds it working and at zero."""
    with LocalCloud() as started, pytest.MonkeyPatch.context() as patch:
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started


@pytest.fixture(autouse=True)
def _right_surroundings(
    request: pytest.FixtureRequest, original_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reset the cloud for a test that uses it; hide it from a test that does not, whatever ran before."""
    if "cloud" in request.fixturenames:
        cloud = request.getfixturevalue("cloud")
        cloud.reset()
        request.addfinalizer(cloud.reset)  # fixtures of the next module run before its reset
        return
    for name in set(os.environ) | set(original_environment):
        if os.environ.get(name) == original_environment.get(name) or name == "PYTEST_CURRENT_TEST":
            continue
        if name in original_environment:
            monkeypatch.setenv(name, original_environment[name])
        else:
            monkeypatch.delenv(name)
