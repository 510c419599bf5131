"""IAM: which role contains a permission, and the commands that grant it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Final

from imagebeam.transforms.core.identifiers import TableName

#: Placeholder for the account in a command when the account is unknown.
UNKNOWN_MEMBER: Final = "user:YOUR_ACCOUNT"

VERTEX_ROLE: Final = "roles/aiplatform.user"
READER_ROLE: Final = "roles/storage.objectViewer"
STORAGE_ADMIN_ROLE: Final = "roles/storage.admin"


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """Who accesses which resources, as far as it is known.

    Attributes:
        project: Project that runs the job and is billed.
        member: IAM member: ``user:…`` or ``serviceAccount:…``.
        dataset: ``project.dataset``; empty if unknown.
        bucket: Name of a bucket.
        account: Service account that is impersonated.
    """

    project: str
    member: str = UNKNOWN_MEMBER
    dataset: str = ""
    bucket: str = "BUCKET"
    account: str = ""


#: Permission → the smallest predefined role with what imagebeam needs, and the kind of resource to grant it on.
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
    "bigquery.connections.get": ("roles/bigquery.connectionUser", "project"),
    "storage.objects.get": (READER_ROLE, "bucket"),
    "storage.objects.list": ("roles/storage.objectUser", "bucket"),
    "storage.objects.create": ("roles/storage.objectUser", "bucket"),
    "storage.objects.delete": ("roles/storage.objectUser", "bucket"),
    "aiplatform.endpoints.predict": (VERTEX_ROLE, "project"),
    "aiplatform.batchPredictionJobs.create": (VERTEX_ROLE, "project"),
    "aiplatform.endpoints.get": (VERTEX_ROLE, "project"),
    "aiplatform.models.get": (VERTEX_ROLE, "project"),
    "dataflow.jobs.create": ("roles/dataflow.developer", "project"),
    "dataflow.jobs.list": ("roles/dataflow.developer", "project"),
    "iam.serviceAccounts.getAccessToken": ("roles/iam.serviceAccountTokenCreator", "account"),
    "iam.serviceAccounts.actAs": ("roles/iam.serviceAccountUser", "account"),
}


def describe_role(permission: str, access: Access) -> str:
    """Return a permission with the role that contains it and the resource to grant it on.

    >>> describe_role("storage.objects.get", Access("p", bucket="frames"))
    'storage.objects.get: roles/storage.objectViewer on gs://frames'
    """
    if permission not in ROLES:
        return permission
    role, kind = ROLES[permission]
    return f"{permission}: {role} on {_resource(kind, access)}"


def grant_command(permission: str, access: Access) -> str:
    """Return the command that grants the role; empty if the role or the resource is unknown.

    >>> grant_command("bigquery.jobs.create", Access("p", "user:a@b.ch"))
    'gcloud projects add-iam-policy-binding p --member=user:a@b.ch --role=roles/bigquery.jobUser --condition=None'
    """
    role, kind = ROLES.get(permission, ("", ""))
    if not role or (kind == "dataset" and not access.dataset):
        return ""
    if kind == "bucket":
        return bucket_grant_command(access.bucket, access.member, role)
    if kind == "dataset":
        dataset = TableName.parse(f"{access.dataset}.t", access.project)
        grant = f'GRANT `{role}` ON SCHEMA `{dataset.project}`.`{dataset.dataset}` TO "{access.member}"'
        return f"bq query --nouse_legacy_sql {shlex.quote(grant)}"
    if kind == "account":
        flags = shlex.join(binding_flags(access.member, role))
        return f"gcloud iam service-accounts add-iam-policy-binding {shlex.quote(access.account)} {flags}"
    return project_grant_command(access.project, access.member, role)


def bucket_grant_command(bucket: str, member: str, role: str) -> str:
    """Return the command that grants a member a role on a bucket."""
    flags = shlex.join(binding_flags(member, role))
    return f"gcloud storage buckets add-iam-policy-binding {shlex.quote(f'gs://{bucket}')} {flags}"


def project_grant_command(project: str, member: str, role: str) -> str:
    """Return the command that grants a member a role on a project."""
    return f"gcloud projects add-iam-policy-binding {shlex.quote(project)} {shlex.join(binding_flags(member, role))}"


def binding_flags(member: str, role: str) -> list[str]:
    """Return the flags of ``gcloud … add-iam-policy-binding`` for projects, buckets and service accounts."""
    # Without --condition, gcloud fails on a policy that has conditions if it cannot ask.
    return [f"--member={member}", f"--role={role}", "--condition=None"]


def enable_command(service: str, project: str) -> str:
    """Return the command that enables an API."""
    return f"gcloud services enable {shlex.quote(service)} --project={shlex.quote(project)}"


def _resource(kind: str, access: Access) -> str:
    if kind == "bucket":
        return f"gs://{access.bucket}"
    if kind == "dataset":
        return f"dataset {access.dataset}" if access.dataset else "its dataset"
    return f"account {access.account}" if kind == "account" else f"project {access.project}"


def vertex_service_agent(project_number: str) -> str:
    """Return the service agent through which Vertex AI reads buckets for a project."""
    return f"service-{project_number}@gcp-sa-aiplatform.iam.gserviceaccount.com"


def foreign_bucket_warning(bucket: str, bucket_number: str, number: str, account: str) -> str | None:
    """Return a warning if a bucket belongs to another project; None if not.

    Args:
        bucket: Its name.
        bucket_number: Number of the project that owns it; empty if unknown.
        number: Number of the project that reads it; empty if unknown.
        account: Service account of the connection.
    """
    if not bucket_number or not number or bucket_number == number:
        return None
    return (
        f"bucket gs://{bucket} is in another project (number {bucket_number}): its owner must grant "
        f"{STORAGE_ADMIN_ROLE} on it to {vertex_service_agent(number)}, and {READER_ROLE} to {account}; "
        "otherwise use --lane=online, which reads the images with your own account"
    )
