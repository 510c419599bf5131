"""Error hints: from the error documents of Google's services, whichever client raised them."""

from __future__ import annotations

import json
import pickle
from typing import Any

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.pipeline.diagnostics import error_hints, iam_roles
from imagebeam.pipeline.diagnostics import results as check_results
from imagebeam.pipeline.diagnostics.error_hints import explain_error
from imagebeam.pipeline.diagnostics.iam_roles import Access
from imagebeam.pipeline.diagnostics.results import CheckResult, State
from imagebeam.transforms.clients.bigquery_errors import query_error
from imagebeam.transforms.clients.rest import ApiError
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, UserError, first_line

HERE = Access("my-project", "user:ada@example.com", dataset="my-project.street", bucket="frames", account="w@p.iam")
TO_PROJECT = "gcloud projects add-iam-policy-binding my-project --member=user:ada@example.com --role="
TO_BUCKET = "gcloud storage buckets add-iam-policy-binding gs://frames --member=user:ada@example.com --role="
ON_DATASET = "bq query --nouse_legacy_sql 'GRANT `{}` ON SCHEMA `my-project`.`street` TO \"user:ada@example.com\"'"
INFO = "type.googleapis.com/google.rpc.ErrorInfo"


def document(message: str, reason: str = "", **metadata: str) -> bytes:
    info = {"@type": INFO, "reason": reason, "metadata": metadata}
    error: dict[str, Any] = {"code": 403, "message": message, "status": "PERMISSION_DENIED"}
    return json.dumps({"error": error | ({"details": [info]} if reason else {})}).encode()


OR_NOT = "(or it may not exist)."


@pytest.mark.parametrize(
    ("message", "permission", "fix"),
    [
        (
            "Access Denied: Project p: User does not have bigquery.jobs.create permission in project p.",
            "bigquery.jobs.create",
            TO_PROJECT + "roles/bigquery.jobUser --condition=None",
        ),
        (
            f"Access Denied: Table p:d.t: Permission bigquery.tables.get denied on table p:d.t {OR_NOT}",
            "bigquery.tables.get",
            ON_DATASET.format("roles/bigquery.dataViewer"),
        ),
        (
            "Access Denied: Table p:d.t: User does not have permission to query table p:d.t, or it may not exist.",
            "bigquery.tables.getData",
            ON_DATASET.format("roles/bigquery.dataViewer"),
        ),
        (
            "w@storage.iam.gserviceaccount.com does not have storage.objects.create access to the object.",
            "storage.objects.create",
            TO_BUCKET + "roles/storage.objectUser --condition=None",
        ),
    ],
)
def test_names_a_missing_permission_and_the_grant_command(message: str, permission: str, fix: str) -> None:
    error = api_errors.Forbidden(message)
    direct = explain_error(error, HERE)
    try:
        try:
            raise error
        except api_errors.Forbidden:
            raise SystemicError("reading something: Forbidden") from None
    except SystemicError as ours:
        wrapped = explain_error(ours, HERE)
    for found in (direct, wrapped):
        assert (found.permission.partition(":")[0], found.fix, found.systemic) == (permission, fix, False)
    assert wrapped.cause == "reading something: Forbidden", "our own words come first"


def test_a_missing_role_is_printed_once() -> None:
    refused = "Access Denied: Project p: User does not have bigquery.jobs.create permission in project p."
    ours = query_error(api_errors.Forbidden(refused))
    ours.__context__ = api_errors.Forbidden(refused)
    assert str(ours).endswith(
        "it needs roles/bigquery.jobUser on the project and roles/bigquery.dataViewer on the source"
    )
    found = explain_error(ours, HERE)
    assert found.cause.startswith("no permission to run the query: ")
    assert found.permission == "bigquery.jobs.create: roles/bigquery.jobUser on project my-project"
    line = str(UserError(found.cause, permission=found.permission))
    assert line.count("roles/bigquery.jobUser") == 1


def test_reads_the_permission_of_vertex_ai_from_the_error_document() -> None:
    said = "Permission denied on resource (or it may not exist)."
    body = document(said, "IAM_PERMISSION_DENIED", permission="aiplatform.endpoints.predict")
    error = ApiError.from_response("calling", 403, body, {})
    assert explain_error(error, HERE).fix == TO_PROJECT + "roles/aiplatform.user --condition=None"


def test_reads_an_impersonation_error_from_google_auth() -> None:
    body = document("Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).")
    error = google.auth.exceptions.RefreshError("Unable to acquire impersonated credentials", body.decode())
    found = explain_error(error, HERE)
    assert found.fix.startswith("gcloud iam service-accounts add-iam-policy-binding w@p.iam ")
    assert "roles/iam.serviceAccountTokenCreator" in found.fix


@pytest.mark.parametrize("service", ["aiplatform", "bigquery", "dataflow", "iamcredentials", "storage"])
def test_distinguishes_a_disabled_api_from_a_missing_permission(service: str) -> None:
    name = f"{service}.googleapis.com"
    link = f"https://console.developers.google.com/apis/api/{name}/overview?project=my-project"
    said = f"X API has not been used in project my-project before or it is disabled. Enable it by visiting {link}."
    enable = f"gcloud services enable {name} --project=my-project"
    body = document(said, "SERVICE_DISABLED", service=name)
    assert explain_error(ApiError.from_response("calling", 403, body, {}), HERE).fix == enable
    old = api_errors.Forbidden(said, errors=[{"reason": "accessNotConfigured", "message": said}])
    assert explain_error(old, HERE).fix == enable


def test_errors_without_a_fix_are_systemic_except_user_errors() -> None:
    assert explain_error(api_errors.ServiceUnavailable("later"), HERE).systemic
    assert explain_error(SystemicError("gone"), HERE).systemic
    assert explain_error(google.auth.exceptions.TransportError("no network"), HERE) == error_hints.ErrorHint(
        "credentials: no network", systemic=True
    )
    mistake = explain_error(UserError("a wrong flag; give another"), HERE)
    assert (mistake.cause, mistake.fix, mistake.systemic) == ("a wrong flag; give another", "", False)
    known = explain_error(UserError("a wrong flag", fix="give another"), HERE)
    assert (known.cause, known.fix) == ("a wrong flag", "give another")
    assert explain_error(google.auth.exceptions.RefreshError("invalid_grant"), HERE).fix == error_hints.LOGIN


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_errors_keep_cause_permission_and_fix_when_pickled(cause: str, permission: str, fix: str) -> None:
    error = UserError(cause, permission=permission, fix=fix)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert (again.cause, again.permission, again.fix) == (cause, permission, fix)
    assert all(part in str(error) for part in (cause, permission, fix))
    assert str(ImagebeamError(cause)) == cause


def test_every_permission_has_a_role_and_a_grant_command() -> None:
    for permission, (role, _) in iam_roles.ROLES.items():
        assert role in iam_roles.grant_command(permission, HERE)
        assert role in iam_roles.describe_role(permission, HERE)
    assert iam_roles.grant_command("compute.instances.get", HERE) == ""


WORDS = st.text(st.characters(categories=("L", "N", "P", "Zs")), max_size=60)
NAMES = st.sampled_from(["task", "source", "model"])
FINDINGS = st.lists(
    st.builds(
        CheckResult,
        st.sampled_from(["task", "source", "model"]),
        st.sampled_from(State),
        WORDS,
        WORDS,
        WORDS,
        WORDS,
        WORDS,
        st.booleans(),
    )
)


@given(FINDINGS, st.integers(40, 120))
def test_formats_every_result_and_never_wraps_commands(found: list[CheckResult], columns: int) -> None:
    shown = check_results.format_results(found, columns)
    heads = [line for line in shown[:-1] if line.strip() and not line.startswith(" ")]
    assert len(heads) == len(found)
    for finding in found:
        if finding.state in (State.WARNING, State.FAILURE) and finding.fix:
            assert any(line.endswith(finding.fix) for line in shown)
    counts = check_results.build_document(found)["counts"]
    assert sum(counts.values()) == len(found)
    failed = [finding for finding in found if finding.state is State.FAILURE]
    code = check_results.exit_code(found)
    assert (code == 0) == (not failed)
    assert (code == 3) == (bool(failed) and all(finding.systemic for finding in failed))


GONE = "The specified bucket does not exist."
URL = "https://storage.example.com/storage/v1/b/nope-bucket/o?projection=noAcl"
HOPED_FOR = ": ('Request failed with status code', 404, 'Expected one of', <HTTPStatus.OK: 200>)"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (api_errors.NotFound(f"GET {URL}: {GONE}", errors=[{"reason": "notFound", "message": GONE}]), GONE),
        (api_errors.NotFound(f"GET {URL}: {GONE}"), GONE),
        (api_errors.NotFound(f"POST {URL}: {document(GONE).decode()}{HOPED_FOR}"), GONE),
        (api_errors.NotFound(f"POST {URL}: {json.dumps(json.loads(document(GONE)), indent=2)}{HOPED_FOR}"), GONE),
        (api_errors.NotFound(f"GET {URL}: Not Found{HOPED_FOR}"), "Not Found"),
        (api_errors.NotFound(f'GET {URL}: {{"error": "odd"}}'), '{"error": "odd"}'),
        (api_errors.ServiceUnavailable("busy\nmore"), "503 busy"),
        (OSError(13, "Permission denied"), "[Errno 13] Permission denied"),
        (ValueError(), "ValueError"),
    ],
)
def test_reduces_client_errors_to_one_line(error: Exception, said: str) -> None:
    assert first_line(error) == said


def test_reports_a_query_error_once_without_its_url() -> None:
    said = "Unrecognized name: heding at [3:7]"
    entry = {"reason": "invalidQuery", "location": "query", "message": said}
    of_a_job = f"{said}; reason: invalidQuery, location: query, message: {said}\n\nLocation: US\nJob ID: x\n"
    of_a_call = f"GET https://bigquery.example.com/bigquery/v2/projects/p/queries/x?maxResults=0&location=US: {said}"
    for message in (of_a_job, of_a_call):
        error = query_error(api_errors.BadRequest(message, errors=[entry]))
        assert str(error) == f"BigQuery rejects the query: {said}"
