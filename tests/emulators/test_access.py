"""Access control of the local cloud: permissions, disabled APIs, linked datasets, accounts."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import google.api_core.exceptions as api_errors
import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import google.cloud.storage as storage
import pytest
from google.auth import impersonated_credentials
from google.cloud import bigquery

from imagebeam.emulators.cloud import LocalCloud

SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
WORKER = "workers@imagebeam-local.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def bucket(cloud: LocalCloud) -> storage.Bucket:
    bucket = storage.Client().create_bucket(f"access-{secrets.token_hex(4)}")
    bucket.blob("a.txt").upload_from_string(b"text")
    return bucket


@pytest.fixture(scope="module")
def table(cloud: LocalCloud) -> Iterator[bigquery.Table]:
    client = bigquery.Client()
    dataset = client.create_dataset(f"access_{secrets.token_hex(4)}")
    new_table = bigquery.Table(dataset.table("t"), schema=[bigquery.SchemaField("n", "INT64")])
    yield client.create_table(new_table)
    client.delete_dataset(dataset, delete_contents=True)


def deny(cloud: LocalCloud, permission: str, **more: str) -> None:
    cloud.faults(access={"denied": [{"permission": permission, **more}]})


def as_worker(cloud: LocalCloud) -> impersonated_credentials.Credentials:
    source, _ = google.auth.default(scopes=SCOPES)
    address = f"{cloud.url}/v1/projects/-/serviceAccounts/{WORKER}:generateAccessToken"
    return impersonated_credentials.Credentials(source, WORKER, SCOPES, iam_endpoint_override=address)


def test_storage_error_names_account_and_permission(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    deny(cloud, "storage.objects.get", resource=f"gs://{bucket.name}/a")
    with pytest.raises(api_errors.Forbidden, match=r"local@\S+ does not have storage\.objects\.get access"):
        bucket.blob("a.txt").download_as_bytes()
    assert bucket.test_iam_permissions(["storage.objects.get", "storage.objects.list"]) == [
        "storage.objects.get",
        "storage.objects.list",
    ], "a rule of one object says nothing of the bucket"
    deny(cloud, "storage.objects.get", resource=f"gs://{bucket.name}")
    assert bucket.test_iam_permissions(["storage.objects.get", "storage.objects.list"]) == ["storage.objects.list"]


def test_rules_apply_per_account(cloud: LocalCloud, bucket: storage.Bucket) -> None:
    deny(cloud, "storage.objects.get", who=WORKER)
    assert bucket.blob("a.txt").download_as_bytes() == b"text"
    other = storage.Client(project=cloud.project, credentials=as_worker(cloud))
    with pytest.raises(api_errors.Forbidden, match=WORKER):
        other.bucket(bucket.name).blob("a.txt").download_as_bytes()
    cloud.reset()
    assert other.bucket(bucket.name).blob("a.txt").download_as_bytes() == b"text"
    deny(cloud, "iam.serviceAccounts.getAccessToken", resource=WORKER)
    with pytest.raises(google.auth.exceptions.RefreshError, match="getAccessToken"):
        as_worker(cloud).refresh(google.auth.transport.requests.Request())


def test_bigquery_access_errors_match_google(cloud: LocalCloud, table: bigquery.Table) -> None:
    client, name = bigquery.Client(), f"{table.dataset_id}.{table.table_id}"
    deny(cloud, "bigquery.tables.getData", resource=f":{name}")
    with pytest.raises(api_errors.Forbidden, match="does not have permission to query table") as caught:
        client.query(f"SELECT * FROM {name}").result()
    assert caught.value.errors[0]["reason"] == "accessDenied"
    deny(cloud, "bigquery.jobs.create")
    with pytest.raises(api_errors.Forbidden, match=r"bigquery\.jobs\.create permission in project"):
        client.query("SELECT 1").result()
    deny(cloud, "bigquery.tables.updateData", resource=name)
    permissions = ["bigquery.tables.get", "bigquery.tables.updateData"]
    assert client.test_iam_permissions(table, permissions) == {"permissions": ["bigquery.tables.get"]}


def test_restricted_linked_dataset_allows_queries_only(cloud: LocalCloud, table: bigquery.Table) -> None:
    client, name = bigquery.Client(), f"{table.dataset_id}.{table.table_id}"
    cloud.faults(bigquery={"linked": {table.dataset_id: {"source": "publisher.shared", "restricted": True}}})
    resource = client.get_dataset(table.dataset_id).to_api_repr()
    assert resource["type"] == "LINKED"
    assert resource["restrictions"] == {"type": "RESTRICTED_DATA_EGRESS"}
    assert resource["linkedDatasetSource"]["sourceDataset"] == {"projectId": "publisher", "datasetId": "shared"}
    assert list(client.query(f"SELECT * FROM {name}").result()) == []
    with pytest.raises(api_errors.Forbidden, match="egress"):
        list(client.list_rows(table))
    config = bigquery.QueryJobConfig(destination=f"{cloud.project}.{table.dataset_id}.copy")
    with pytest.raises(api_errors.Forbidden, match="egress"):
        client.query(f"SELECT * FROM {name}", job_config=config).result()
    with pytest.raises(api_errors.Forbidden, match="egress"):
        client.query(f"CREATE TABLE {table.dataset_id}.other AS SELECT * FROM {name}").result()


@pytest.mark.parametrize("service", ["bigquery", "storage"])
def test_disabled_api_rejects_every_call(cloud: LocalCloud, bucket: storage.Bucket, service: str) -> None:
    cloud.faults(access={"disabled_apis": [f"{service}.googleapis.com"]})
    with pytest.raises(api_errors.Forbidden) as caught:
        bigquery.Client().get_dataset("any") if service == "bigquery" else bucket.reload()
    assert caught.value.reason == "SERVICE_DISABLED"
    assert caught.value.metadata["service"] == f"{service}.googleapis.com"


def test_project_permissions_exclude_denied_ones(cloud: LocalCloud) -> None:
    credentials, _ = google.auth.default(scopes=SCOPES)
    session = google.auth.transport.requests.AuthorizedSession(credentials)
    address = f"{cloud.url}/v3/projects/{cloud.project}:testIamPermissions"
    permissions = {"permissions": ["bigquery.datasets.create", "dataflow.jobs.create"]}
    assert session.post(address, json=permissions).json() == permissions
    deny(cloud, "dataflow.jobs.create")
    assert session.post(address, json=permissions).json() == {"permissions": ["bigquery.datasets.create"]}
    assert session.post(address, json={"permissions": []}).status_code == 400
    other = f"{cloud.url}/v3/projects/somebodys-project:testIamPermissions"
    assert session.post(other, json=permissions).status_code == 403


@pytest.mark.parametrize(
    "section",
    [
        {"access": {"denied": [{"permission": "storage.objects"}]}},
        {"access": {"denied": [{"permision": "storage.objects.get"}]}},
        {"access": {"disabled_apis": ["bigqery.googleapis.com"]}},
        {"bigquery": {"linked": {"d": {"source": "publisher"}}}},
    ],
)
def test_rejects_invalid_rule(cloud: LocalCloud, section: dict[str, dict[str, object]]) -> None:
    with pytest.raises(ValueError, match=r"access|linked"):
        cloud.faults(**section)
