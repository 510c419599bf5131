"""Dataflow of the local cloud, through Google's client."""

import re
from typing import Any

import google.auth
import google.auth.transport.requests
import google.cloud.dataflow as dataflow
import pytest
import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import BadRequest, MethodNotImplemented, NotFound
from google.oauth2.credentials import Credentials
from support.dataflow_local import Place, make_place
from support.jobs import run_cli

from imagebeam.emulators.cloud import LocalCloud


@pytest.fixture(scope="module")
def place(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(cloud, tmp_path_factory.mktemp("dataflow"), 1)


@pytest.fixture(scope="module")
def job(place: Place) -> dataflow.Job:
    assert run_cli(place.arguments("--job_name=first"))[0] == 0
    (submitted,) = place.submitted()
    return submitted


@pytest.fixture(scope="module")
def client(cloud: LocalCloud) -> dataflow.JobsV1Beta3Client:
    key, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    key.refresh(google.auth.transport.requests.Request())
    # With the key itself the client would sign its own tokens, which the local cloud does not take.
    return dataflow.JobsV1Beta3Client(
        credentials=Credentials(key.token), transport="rest", client_options=ClientOptions(api_endpoint=cloud.url)
    )


PLACE = {"project_id": "imagebeam-local", "location": "us-central1"}


def test_job_is_found_and_listed_in_its_location(
    cloud: LocalCloud, client: dataflow.JobsV1Beta3Client, job: dataflow.Job
) -> None:
    request = {**PLACE, "job_id": job.id}
    assert client.get_job(request).current_state == dataflow.JobState.JOB_STATE_PENDING
    assert job.id in {found.id for found in client.list_jobs(PLACE)}
    assert not list(client.list_jobs({**PLACE, "location": "us-east1"}))
    with pytest.raises(NotFound):
        client.get_job({**request, "job_id": "none"})


def test_rejects_methods_that_are_not_implemented(
    cloud: LocalCloud, client: dataflow.JobsV1Beta3Client, job: dataflow.Job
) -> None:
    wanted = dataflow.Job(requested_state=dataflow.JobState.JOB_STATE_DRAINED)
    with pytest.raises(MethodNotImplemented):
        client.update_job({**PLACE, "job_id": job.id, "job": wanted})


def test_canceled_job_frees_its_name(cloud: LocalCloud, client: dataflow.JobsV1Beta3Client, job: dataflow.Job) -> None:
    again = dataflow.Job(job)
    again.name, again.client_request_id = "again", "1"
    first = client.create_job({**PLACE, "job": again})
    assert client.create_job({**PLACE, "job": again}).id == first.id
    wanted = dataflow.Job(requested_state=dataflow.JobState.JOB_STATE_CANCELLED)
    client.update_job({**PLACE, "job_id": first.id, "job": wanted})
    second = client.create_job({**PLACE, "job": again})
    assert second.id != first.id
    states = [client.get_job({**PLACE, "job_id": found.id}).current_state.name for found in (first, second)]
    assert states == ["JOB_STATE_CANCELLED", "JOB_STATE_PENDING"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "My_Job"}, "The job name 'My_Job' must match"),
        ({"type_": 0}, "The job's type"),
        ({"labels": {"Team": "maps"}}, "The label Team=maps is not allowed"),
        ({"environment": {}}, "The job has no worker pool"),
        ({"environment": {"worker_pools": [{"num_workers": 2}], "service_account_email": "x"}}, "could not read gs://"),
    ],
)
def test_rejects_jobs_that_dataflow_rejects(
    cloud: LocalCloud,
    client: dataflow.JobsV1Beta3Client,
    change: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(BadRequest, match=re.escape(said)):
        client.create_job({**PLACE, "job": dataflow.Job({"name": "fine", "type_": 1, **change})})


def test_rejects_pipeline_changed_after_staging(
    cloud: LocalCloud, client: dataflow.JobsV1Beta3Client, job: dataflow.Job
) -> None:
    changed = dataflow.Job(job)
    changed.name = "another"
    changed.environment.sdk_pipeline_options["options"]["pipelineProtoHash"] = "0" * 64
    with pytest.raises(BadRequest, match="The hash of the staged graph differs"):
        client.create_job({**PLACE, "job": changed})


def test_rejects_submission_without_token(cloud: LocalCloud) -> None:
    url = f"{cloud.url}/v1b3/projects/imagebeam-local/locations/us-central1/jobs"
    assert requests.post(url, json={}, timeout=120).status_code == 401
