"""Which role gives a permission, and the command that grants it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Final

from imagebeam.transforms.core.identifiers import TableName

#: What stands in a command where nobody knows who is asking.
NOBODY: Final = "user:YOUR_ACCOUNT"


VERTEX_ROLE, READER_ROLE, STORAGE_ADMIN_ROLE = (
    "roles/aiplatform.user",
    "roles/storage.objectViewer",
    "roles/storage.admin",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What a permission is asked about; only what is known.

    Attributes:
        project: Project that runs and pays.
        member: Who asks, as IAM writes it: ``user:…`` or ``serviceAccount:…``.
        dataset: ``project.dataset``.
        bucket: Name of a bucket.
        account: A service account that is asked about.
    """

    project: str
    member: str = NOBODY
    dataset: str = ""
    bucket: str = "BUCKET"
    account: str = ""


#: Permission → the smallest predefined role that gives what imagebeam needs, and the kind of resource it is given on.
ROLES: Final[Mapping[str, tuple[str, str]]] = {
    "bigquery.jobs.create": ("roles/bigquery.jobUser", "project"),
    "bigquery.datasets.create": ("roles/bigquery.user", "project"),
    "bigquery.datasets.get": ("roles/bigquery.dataViewer", "dataset"),
    "bigquery.tables.get": ("roles/bigquery.dataViewer", "dataset"),
    "bigquery.tables.getData": ("roles/bigquery.dataViewer", "dataset"),
    "bigquery.tables.create": ("roles/bigquery.dataEditor", "dataset"),
    "bigquery.tables.delete": ("roles/bigquery.dataEditor", "dataset"),
    "bigquery.tables.update": ("roles/bigquery.dataEditor", "dataset"),
    "bigquery.tables.updateData": ("roles/bigquery.dataEditor", "dataset"),
    "storage.objects.get": ("roles/storage.objectViewer", "bucket"),
    "storage.objects.list": ("roles/storage.objectUser", "bucket"),
    "storage.objects.create": ("roles/storage.objectUser", "bucket"),
    "storage.objects.delete": ("roles/storage.objectUser", "bucket"),
    "aiplatform.endpoints.predict": ("roles/aiplatform.user", "project"),
    "aiplatform.batchPredictionJobs.create": ("roles/aiplatform.user", "project"),
    "dataflow.jobs.create": ("roles/dataflow.developer", "project"),
    "dataflow.jobs.list": ("roles/dataflow.developer", "project"),
    "iam.serviceAccounts.getAccessToken": ("roles/iam.serviceAccountTokenCreator", "account"),
    "iam.serviceAccounts.actAs": ("roles/iam.serviceAccountUser", "account"),
}


def needed(permission: str, place: Place) -> str:
    """A permission, the role that gives it, and on what.

    >>> needed("storage.objects.get", Place("p", bucket="frames"))
    'storage.objects.get: roles/storage.objectViewer on gs://frames'
    """
    if permission not in ROLES:
        return permission
    role, kind = ROLES[permission]
    return f"{permission}: {role} on {_resource(kind, place)}"


def command(permission: str, place: Place) -> str:
    """The command that grants the role to whoever asks; empty when nobody knows which role it is, or on what.

    >>> command("bigquery.jobs.create", Place("my-project", "user:ada@example.com"))
    'gcloud projects add-iam-policy-binding my-project --member=user:ada@example.com --role=roles/bigquery.jobUser'
    """
    role, kind = ROLES.get(permission, ("", ""))
    if not role or (kind == "dataset" and not place.dataset):
        return ""
    to = f"--member={shlex.quote(place.member)} --role={role}"
    if kind == "bucket":
        return f"gcloud storage buckets add-iam-policy-binding {shlex.quote(f'gs://{place.bucket}')} {to}"
    if kind == "dataset":
        dataset = TableName.parse(f"{place.dataset}.t", place.project)
        grant = f'GRANT `{role}` ON SCHEMA `{dataset.project}`.`{dataset.dataset}` TO "{place.member}"'
        return f"bq query --nouse_legacy_sql {shlex.quote(grant)}"
    if kind == "account":
        return f"gcloud iam service-accounts add-iam-policy-binding {shlex.quote(place.account)} {to}"
    return f"gcloud projects add-iam-policy-binding {shlex.quote(place.project)} {to}"


def enable(service: str, project: str) -> str:
    """The command that enables an API."""
    return f"gcloud services enable {shlex.quote(service)} --project={shlex.quote(project)}"


def _resource(kind: str, place: Place) -> str:
    if kind == "bucket":
        return f"gs://{place.bucket}"
    if kind == "dataset":
        return f"dataset {place.dataset}" if place.dataset else "its dataset"
    return f"account {place.account}" if kind == "account" else f"project {place.project}"


def bucket_command(bucket: str, account: str, role: str) -> str:
    """The command that gives an account a role on a bucket."""
    return (
        f"gcloud storage buckets add-iam-policy-binding {shlex.quote(f'gs://{bucket}')} "
        f"--member={shlex.quote(f'serviceAccount:{account}')} --role={role}"
    )


def vertex_agent(project_number: str) -> str:
    """Google's own account through which Vertex AI reads buckets for a project."""
    return f"service-{project_number}@gcp-sa-aiplatform.iam.gserviceaccount.com"


def foreign_bucket(bucket: str, bucket_number: str, number: str, account: str) -> str | None:
    """What to say about a bucket of another project; None for one of our own.

    Args:
        bucket: Its name.
        bucket_number: Number of the project that owns it.
        number: Number of the project that asks.
        account: Service account of the connection.
    """
    if not bucket_number or not number or bucket_number == number:
        return None
    return (
        f"bucket gs://{bucket} is in another project (number {bucket_number}): its owner must grant "
        f"{STORAGE_ADMIN_ROLE} on it to {vertex_agent(number)}, and {READER_ROLE} to {account}; "
        "without that use --lane=online, which reads the images with your own account"
    )
