"""Fixtures of all tests. No test sees the developer's own Google credentials."""

import os
from collections.abc import Iterator
from pathlib import Path

import certifi
import hypothesis
import pytest

# Before the first import of numpy: on a busy machine, threads that wait for each other take most of the time.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from imagebeam.emulators.cloud import LocalCloud

# The duration of an example depends on the machine more than on the code. The same examples in every run, so that a
# test never fails by chance; make test-long draws new ones with --hypothesis-profile=random.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile("same")

#: Prefixes of environment variables with which a developer's machine could affect a test.
AMBIENT = ("GOOGLE_", "CLOUDSDK_", "GCE_METADATA", "GCLOUD_PROJECT", "NO_GCE_CHECK")


@pytest.fixture(scope="session", autouse=True)
def original_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment without credentials, in which tests that do not use `cloud` run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(AMBIENT) or name.endswith("_EMULATOR_HOST"):
                patch.delenv(name)
        patch.setenv("CLOUDSDK_CONFIG", str(tmp_path_factory.mktemp("no-gcloud")))
        # No test opens a TLS connection, but clients load all root certificates: a tenth of a small run.
        end = "-----END CERTIFICATE-----\n"
        one = tmp_path_factory.mktemp("certificates") / "one.pem"
        one.write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
        patch.setenv("SSL_CERT_FILE", str(one))
        yield dict(os.environ)


@pytest.fixture(scope="session")
def cloud(original_environment: dict[str, str]) -> Iterator[LocalCloud]:
    """The local Google Cloud, started once and reset for every test that uses it."""
    with LocalCloud() as started, pytest.MonkeyPatch.context() as patch:
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started


@pytest.fixture(autouse=True)
def _isolated_environment(
    request: pytest.FixtureRequest, original_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Reset the cloud before and after a test that uses it; hide its environment from all other tests."""
    if "cloud" in request.fixturenames:
        cloud = request.getfixturevalue("cloud")
        cloud.reset()
        yield
        cloud.reset()  # module-scoped fixtures of the next file run before its first reset
        return
    for name in set(os.environ) | set(original_environment):
        if os.environ.get(name) == original_environment.get(name) or name == "PYTEST_CURRENT_TEST":
            continue
        if name in original_environment:
            monkeypatch.setenv(name, original_environment[name])
        else:
            monkeypatch.delenv(name)
    yield
