"""Checks of the images, the model and the access of Vertex AI to files."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from typing import Final

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import google.auth.transport.requests
import google.cloud.storage as gcs
from google.auth import impersonated_credentials
from PIL import Image as PillowImage

from imagebeam.pipeline.diagnostics.error_hints import explain_error
from imagebeam.pipeline.diagnostics.iam_roles import (
    READER_ROLE,
    Access,
    bucket_grant_command,
    vertex_service_agent,
)
from imagebeam.pipeline.diagnostics.results import CheckResult
from imagebeam.pipeline.preflight import batch_checks
from imagebeam.pipeline.preflight.runner import Context, Sample
from imagebeam.pipeline.run import cost_estimate, model_probe
from imagebeam.pipeline.run.assemble import call_tokens
from imagebeam.pipeline.run.event_loop import run_coroutine
from imagebeam.pipeline.run.model_probe import ProbeResult
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.rest import ApiError, service_url
from imagebeam.transforms.core import images
from imagebeam.transforms.core.counts import add_costs
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, UserError
from imagebeam.transforms.core.records import Image, ImageReason, Lane, Transport
from imagebeam.transforms.engine.image_parts import SNIFF_BYTES, supported_mime
from imagebeam.transforms.gemini.error_classes import Failure, FailureKind
from imagebeam.transforms.gemini.requests import ImagePart

#: Tokens per minute of a project by usage tier, for Flash models on the global endpoint (Google, "Standard PayGo",
#: November 2026). More is granted when capacity is available.
TIERS: Final[Mapping[str, int]] = {"1": 2_000_000, "2": 4_000_000, "3": 10_000_000}
_READ_ONLY: Final = ["https://www.googleapis.com/auth/devstorage.read_only"]
_NOT_DEPLOYED: Final = "the tuned model is not deployed, so it cannot be called; batch jobs can use it"
_IMAGE_FIXES: Final[Mapping[ImageReason, str]] = {
    ImageReason.NOT_FOUND: "use the table of the newest snapshot as --source: images expire with their snapshot",
    ImageReason.UNREADABLE: "check the object; exclude such rows with --where, or use other images with --columns",
    ImageReason.UNSUPPORTED: "use images in JPEG, PNG, WebP, HEIC or HEIF",
}


def check_sample(context: Context) -> CheckResult:
    """Check that the account of the workers can read an image of the source."""
    resolved = context.resolved
    uris = model_probe.read_sample_uris(resolved)
    if not uris:
        if not resolved.bq.query_rows(cost_estimate.any_row_query(resolved.source), location=resolved.location):
            raise UserError(
                f"the source has no rows: {resolved.source.label}", fix="use a table with images as --source"
            )
        raise UserError("the source has no image URI that starts with gs://", fix="--columns=uri=COLUMN, or a --query")
    warning, client, member = None, None, context.member
    if context.dataflow:
        worker = _worker_account(context)
        try:
            client = _client_as(context, worker)
            member = f"serviceAccount:{worker}"
        except (google.auth.exceptions.GoogleAuthError, ImagebeamError) as error:
            context.begin("read an image as the workers' account", account=worker)
            hint = explain_error(error, context.access)
            warning = context.warning(
                f"cannot verify that the workers can read images: {hint.cause}",
                fix=hint.fix,
                permission=hint.permission,
                found=f"read with your own account, not as serviceAccount:{worker}",
            )
    problems = []
    for uri in uris:
        context.begin(f"read {uri} as {member}", bucket=uri.removeprefix("gs://").partition("/")[0])
        try:
            data = storage.read_image(uri, client=client)
            context.sample = _build_sample(context, uri, data)
        except images.ImageError as problem:
            problems.append(problem)
            continue
        return warning or context.ok(f"{uri}, {len(data):,} bytes, as {member}")
    context.access = Access(context.settings.project, member, bucket=context.access.bucket)
    first = problems[0]
    fix = _IMAGE_FIXES.get(first.reason, "")
    raise UserError(f"no image of {len(uris)} can be used: {first}", fix=fix) from first


def _build_sample(context: Context, uri: str, data: bytes) -> Sample:
    """Build the parts of an image by every transport that the run can use.

    Raises:
        ImageError: The model does not take the image, or it is too large for the only transport.
    """
    settings = context.resolved.task.image
    mime = supported_mime(data[:SNIFF_BYTES], uri)
    parts = {} if context.resolved.needs_inline else {Transport.URI: ImagePart(mime, uri=uri)}
    try:  # without a crop, whose box belongs to a row
        prepared = images.prepare(
            data, crop=None, padding=settings.padding, max_side=settings.max_side, quality=settings.quality
        )
    except images.ImageError as problem:
        if problem.reason is not ImageReason.TOO_LARGE or not parts:
            raise
    else:
        parts[Transport.INLINE] = ImagePart(prepared.mime_type, data=prepared.data)
    return Sample(uri, parts)


def check_model(context: Context) -> CheckResult:
    """Check that the model exists at the location."""
    run_coroutine(model_probe.check_model_exists(context.resolved))
    return context.ok(f"{context.resolved.profile.name} at {context.settings.location}")


def check_probe(context: Context) -> CheckResult:
    """Call the model with an image by every transport, and decide the transport."""
    task, sample = context.resolved.task, context.sample
    if not context.resolved.has_endpoint:
        return context.skipped(_NOT_DEPLOYED)
    if not context.paid_calls:
        if not task.counts_tokens:
            return context.skipped("--no_probe, and every call to an embedding model is paid")
        if context.resolved.needs_inline:
            return context.skipped("--no_probe, and images are sent as bytes")
        context.begin(f"countTokens of {sample.uri}, free of charge (--no_probe)")
        transport = run_coroutine(model_probe.probe_transport(context.resolved, [sample.uri]))
        return _transport_result(context, transport, "free countTokens")
    context.begin(f"paid calls with {sample.uri}, not part of a run")
    results = run_coroutine(model_probe.call_once(context.resolved, Image("preflight", sample.uri), sample.parts))
    usd = add_costs(*(result.usd for result in results.values()))
    cost = "of unknown cost" if usd is None else f"${usd:.6f}"
    return _probe_result(context, results, f"paid calls: {len(results)}, {cost}, not part of any run")


def _probe_result(context: Context, results: Mapping[Transport, ProbeResult], spent: str) -> CheckResult:
    """Conclude from the paid calls which transport works."""
    failures = {transport: result.failure for transport, result in results.items() if result.failure is not None}
    for transport, failure in failures.items():
        if failure.kind is FailureKind.RUN:
            raise ApiError(f"calling the model with an image by {transport}", failure, body=results[transport].body)
    if failures and all(failure.kind is FailureKind.THROTTLED for failure in failures.values()):
        return context.warning(
            f"the quota is exhausted at the moment: {next(iter(failures.values())).message}",
            fix="no action needed, because a run slows down and retries; or use another --location, or --lane=flex",
            found=spent,
        )
    if failures and failures.keys() == results.keys():
        raise _all_failed(failures)
    if Transport.URI not in results:
        context.transport = Transport.INLINE
        return context.ok(f"images are sent as bytes; {spent}")
    by_uri = failures.get(Transport.URI)
    if by_uri is not None and by_uri.reason != "FORBIDDEN":
        return context.warning(
            f"no answer by URI: {by_uri.reason}: {by_uri.message}", fix="--transport=inline if it persists", found=spent
        )
    return _transport_result(context, Transport.INLINE if by_uri else Transport.URI, spent)


def _transport_result(context: Context, transport: Transport, found: str) -> CheckResult:
    context.transport = transport
    if transport == Transport.URI:
        return context.ok(f"images are sent by URI; {found}")
    agent = vertex_service_agent(_project_number(context) or "PROJECT_NUMBER")
    bucket = context.sample.uri.removeprefix("gs://").partition("/")[0]
    grant = bucket_grant_command(bucket, f"serviceAccount:{agent}", READER_ROLE)
    permission = f"storage.objects.get: {READER_ROLE} on gs://{bucket} for {agent}"
    if context.settings.lane == Lane.BATCH:
        raise batch_checks.unreadable_images(context.resolved.task, grant=grant)
    if context.settings.transport == Transport.URI:
        raise UserError(
            "Vertex AI cannot read these images by URI",
            permission=permission,
            fix="--transport=auto, which sends their bytes",
        )
    return context.warning(
        "Vertex AI cannot read these images by URI, so this machine or the workers send their bytes: "
        "slower, and --lane=batch is not possible",
        fix=grant,
        permission=permission,
        found=f"images are sent as bytes; {found}",
    )


def _all_failed(failures: Mapping[Transport, Failure]) -> ImagebeamError:
    last = list(failures.values())[-1]
    cause = f"no answer by {' or by '.join(failures)}: {last.reason}: {last.message}"
    if last.kind is FailureKind.UNIT:
        return UserError(cause, fix="check the image and the task (imagebeam tasks check)")
    return SystemicError(cause)


def check_service_agent(context: Context) -> CheckResult:
    """Check that Vertex AI's service agent can use the work directory, where jobs have their files."""
    directory = context.settings.work_dir
    if not context.resolved.task.counts_tokens:
        return context.skipped("embedding models have no free call that reads a file")
    if not context.resolved.has_endpoint:
        return context.skipped(_NOT_DEPLOYED)
    bucket = directory.removeprefix("gs://").partition("/")[0]
    number = _project_number(context)
    agent = vertex_service_agent(number or "PROJECT_NUMBER")
    grant = bucket_grant_command(bucket, f"serviceAccount:{agent}", "roles/storage.objectUser")
    permission = f"storage.objects.get, create and list: roles/storage.objectUser on gs://{bucket} for {agent}"
    uri = storage.join(directory, f".probe-{os.getpid()}.png")
    context.begin(f"let {agent} read {uri}, written for it and deleted; countTokens, free")
    storage.write(uri, _gray_image(), content_type="image/png")
    try:
        transport = run_coroutine(model_probe.probe_transport(context.resolved, [uri]))
    finally:
        storage.delete(uri)
    if transport == Transport.INLINE:
        raise UserError(f"Vertex AI cannot read gs://{bucket}", permission=permission, fix=grant)
    try:
        owner = str(storage.storage_client().get_bucket(bucket).project_number or "")
    except api_errors.Forbidden:
        owner = ""
    if owner and number and owner != number:
        return context.warning(
            f"bucket {bucket} belongs to another project (number {owner}), and whether {agent} may write there is "
            "known only when a job ends",
            fix=grant,
            permission=permission,
        )
    return context.ok(f"{agent} reads {directory}")


def check_quota(context: Context) -> CheckResult:
    """Estimate the call rate. No service publishes it, so this check never fails."""
    settings, profile = context.settings, context.resolved.profile
    if settings.lane == Lane.BATCH:
        return context.ok("batch jobs have no quota of calls; a job may wait for up to 72 hours")
    fixed = profile.fixed_rpm(settings.location)
    if fixed is not None:
        return context.ok(
            f"fixed: {fixed:,} calls per minute for {profile.name} at {settings.location}; set your own with --max_rpm"
        )
    if settings.location != "global" or context.resolved.task.vector_dimension is not None:
        return context.ok(
            f"shared, no published figure for {profile.name} at {settings.location}; a run finds what is granted"
        )
    tokens = max(1, call_tokens(profile, context.resolved.task))
    tiers = ", ".join(f"{granted / tokens / 60:,.0f}/s in tier {tier}" for tier, granted in TIERS.items())
    return context.ok(f"shared: with about {tokens:,} tokens per call {tiers}; a run finds what is granted")


def _worker_account(context: Context) -> str:
    """Return the account of the Dataflow workers.

    Raises:
        UserError: It is not given, and the default one is unknown.
    """
    if context.beam.service_account_email:
        return str(context.beam.service_account_email)
    number = _project_number(context)
    if not number:
        raise UserError("the workers' default account is unknown", fix="--service_account_email=ACCOUNT")
    return f"{number}-compute@developer.gserviceaccount.com"


def _client_as(context: Context, account: str) -> gcs.Client:
    """Return a Cloud Storage client that impersonates an account.

    Raises:
        google.auth.exceptions.GoogleAuthError: This account may not impersonate it.
    """
    url = f"{service_url('iamcredentials')}/v1/projects/-/serviceAccounts/{account}:generateAccessToken"
    credentials = impersonated_credentials.Credentials(
        source_credentials=context.credentials,
        target_principal=account,
        target_scopes=_READ_ONLY,
        iam_endpoint_override=url,
    )
    credentials.refresh(google.auth.transport.requests.Request())
    return gcs.Client(project=context.settings.project, credentials=credentials)


def _project_number(context: Context) -> str:
    """Return the project's number, read from the name of its Cloud Storage service agent; empty if unknown."""
    try:
        account = str(storage.storage_client().get_service_account_email(project=context.settings.project))
    except (api_errors.GoogleAPIError, google.auth.exceptions.GoogleAuthError, OSError):
        return ""
    found = re.fullmatch(r"service-(\d+)@.+", account)
    return found[1] if found else ""


def _gray_image() -> bytes:
    stream = io.BytesIO()
    PillowImage.new("RGB", (64, 64), "gray").save(stream, "PNG")
    return stream.getvalue()
