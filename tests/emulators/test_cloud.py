"""The local cloud as a whole: its process, its environment, its tokens, its faults and its counters."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import pytest
import requests
from google.oauth2.service_account import Credentials

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.core.tokens import write_credentials
from imagebeam.emulators.environment import environment_of, find_conflict

pytestmark = pytest.mark.long


def test_environment_points_every_client_at_the_server(cloud: LocalCloud) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "BIGQUERY_EMULATOR_HOST", "HTTPS_PROXY"):
        assert os.environ[name] == cloud.url
    for name in ("GOOGLE_VERTEX_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
        assert os.environ[name] == f"{cloud.url}/aiplatform.googleapis.com"
    assert os.environ["GOOGLE_CLOUD_PROJECT"] == cloud.project == "imagebeam-local"


def test_google_auth_gets_a_token_with_the_temporary_key(cloud: LocalCloud) -> None:
    credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(google.auth.transport.requests.Request())
    assert project == cloud.project
    assert credentials.valid
    assert cloud.counters()["token"]["requests"] == 1


def test_key_is_readable_by_its_owner_only(cloud: LocalCloud) -> None:
    assert (cloud.directory / "credentials.json").stat().st_mode & 0o077 == 0


def test_rejects_token_request_with_another_signature(cloud: LocalCloud, tmp_path: Path) -> None:
    write_credentials(tmp_path / "other.json", cloud.url)
    foreign = Credentials.from_service_account_file(str(tmp_path / "other.json"), scopes=["x"])
    with pytest.raises(google.auth.exceptions.RefreshError, match="invalid_grant"):
        foreign.refresh(google.auth.transport.requests.Request())


def test_token_fault_looks_like_an_invalid_key(cloud: LocalCloud) -> None:
    cloud.faults(token={"fail": True})
    credentials, _ = google.auth.default(scopes=["x"])
    with pytest.raises(google.auth.exceptions.RefreshError, match="invalid_grant"):
        credentials.refresh(google.auth.transport.requests.Request())
    cloud.reset()
    credentials.refresh(google.auth.transport.requests.Request())


def test_proxy_rejects_connections_to_other_hosts(cloud: LocalCloud) -> None:
    with pytest.raises(requests.exceptions.ProxyError, match="403"):
        requests.get("https://storage.googleapis.com/storage/v1/b", timeout=120)
    assert cloud.counters()["connect_refused"] == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vertx": {}}, "Unknown section 'vertx'"),
        ({"token": {"fial": True}}, "unknown key 'fial'"),
        ({"storage": {"rules": [{"do": "explode"}]}}, "must have the action 'http'"),
        ({"storage": "no"}, "must be an object"),
    ],
)
def test_rejects_unknown_fault(cloud: LocalCloud, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cloud.faults(**settings)


def test_setting_one_section_keeps_the_others(cloud: LocalCloud) -> None:
    cloud.faults(token={"fail": True})
    cloud.faults(storage={"rules": []})
    with urllib.request.urlopen(f"{cloud.url}/_local/faults") as response:
        assert json.load(response) == {"token": {"fail": True}, "storage": {"rules": []}}


@pytest.mark.parametrize("headers", [{"Host": "evil.example:80"}, {"Origin": "https://evil.example"}])
def test_rejects_requests_of_web_pages(cloud: LocalCloud, headers: dict[str, str]) -> None:
    answer = requests.get(f"{cloud.url}/_local/counters", headers=headers, timeout=10)
    assert answer.status_code == 403
    assert "own programs only" in answer.json()["error"]["message"]
    assert requests.get(f"{cloud.url}/_local/counters", headers={"Origin": cloud.url}, timeout=10).ok


def test_unknown_route_is_named(cloud: LocalCloud) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{cloud.url}/pubsub/v1/topics")
    assert caught.value.code == 501
    assert "GET /pubsub/v1/topics" in json.load(caught.value)["error"]["message"]


def test_two_clouds_run_concurrently_and_clean_up(cloud: LocalCloud) -> None:
    with LocalCloud() as other:
        assert other.url != cloud.url
        assert json.loads((other.directory / "local.json").read_bytes())["url"] == other.url
        directory = other.directory
    assert not directory.exists()
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(other.url, timeout=120)


def test_given_directory_is_kept_and_the_cloud_is_reported_down(tmp_path: Path) -> None:
    with LocalCloud(tmp_path) as started:
        assert (tmp_path / "local.json").exists()
        key = (tmp_path / "credentials.json").read_text()
        assert started.directory == tmp_path
    assert not (tmp_path / "local.json").exists()
    with LocalCloud(tmp_path):
        again = (tmp_path / "credentials.json").read_text()
    assert json.loads(key)["private_key"] == json.loads(again)["private_key"]


def test_server_stops_when_its_parent_is_killed() -> None:
    code = (
        "import time\nfrom imagebeam.emulators.cloud import LocalCloud\n"
        "with LocalCloud() as cloud:\n    print(cloud.url, flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert requests.get(f"{url}/_local/counters", timeout=120).status_code == 200
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    limit = time.monotonic() + 240
    while time.monotonic() < limit:
        try:
            requests.get(f"{url}/_local/counters", timeout=0.1)
        except requests.exceptions.ConnectionError:
            break
        except requests.exceptions.Timeout:
            continue
    else:
        pytest.fail("the server outlived its parent")


def test_failed_start_reports_the_reason(cloud: LocalCloud, tmp_path: Path) -> None:
    taken = int(cloud.url.rpartition(":")[2])
    with pytest.raises(RuntimeError, match=r"did not start: The local cloud cannot start: .*in use"):
        LocalCloud(tmp_path, port=taken).start()


def test_rejects_real_credentials(tmp_path: Path) -> None:
    own = environment_of("http://127.0.0.1:1", "p", tmp_path)
    assert find_conflict(own, tmp_path, tmp_path) is None
    assert find_conflict({}, tmp_path, tmp_path) is None
    said = find_conflict({"GOOGLE_APPLICATION_CREDENTIALS": "/keys/prod.json"}, tmp_path, tmp_path)
    assert said is not None
    assert "unset GOOGLE_APPLICATION_CREDENTIALS" in said
    assert "STORAGE" in (find_conflict({"STORAGE_EMULATOR_HOST": "http://elsewhere:1"}, tmp_path, tmp_path) or "")
    adc = tmp_path / ".config" / "gcloud" / "application_default_credentials.json"
    adc.parent.mkdir(parents=True)
    adc.write_text("{}")
    assert str(adc) in (find_conflict({}, tmp_path, tmp_path) or "")


def test_two_servers_cannot_share_a_directory(cloud: LocalCloud) -> None:
    key = (cloud.directory / "credentials.json").read_bytes()
    with pytest.raises(RuntimeError, match="cannot start: another local cloud is running in") as caught:
        LocalCloud(cloud.directory).start()
    assert "Traceback" not in str(caught.value)
    assert requests.get(f"{cloud.url}/_local/counters", timeout=120).status_code == 200
    assert (cloud.directory / "local.json").exists()
    assert (cloud.directory / "credentials.json").read_bytes() == key
