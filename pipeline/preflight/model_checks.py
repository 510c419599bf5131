"""The checks of who reads and answers: a sample image, the model, a real call, batch jobs, Dataflow."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import google.auth.transport.requests
import google.cloud.storage as gcs
from google.auth import impersonated_credentials
from PIL import Image as Pictures

from imagebeam.pipeline.diagnostics import iam_roles
from imagebeam.pipeline.diagnostics.error_hints import explain_error
from imagebeam.pipeline.diagnostics.iam_roles import bucket_grant_command, vertex_service_agent
from imagebeam.pipeline.embed_sql import jobs as sql_jobs
from imagebeam.pipeline.embed_sql import setup as embed_setup
from imagebeam.pipeline.embed_sql.ddl import Connection, create_connection_command
from imagebeam.pipeline.preflight.runner import CheckWarning, Context, Sample, Seen, Skipped
from imagebeam.pipeline.run import batch_checks, checks, cost_estimate, dataflow_staging, model_probe
from imagebeam.pipeline.run.assemble import call_tokens
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.model_probe import Asked
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.rest import ApiError, RestClient, service_url
from imagebeam.transforms.core import images
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, UserError
from imagebeam.transforms.core.records import Image, ImageReason, Lane, Transport
from imagebeam.transforms.engine.image_parts import SNIFF_BYTES, supported_mime
from imagebeam.transforms.gemini.error_classes import Failure, FailureKind
from imagebeam.transforms.gemini.requests import ImagePart

#: Tokens per minute that a project of a usage tier is granted for Flash models on the global endpoint (Google,
#: "Standard PayGo", November 2026); more is given when there is room.
TIERS: Final[Mapping[str, int]] = {"1": 2_000_000, "2": 4_000_000, "3": 10_000_000}
_READ_ONLY: Final = ["https://www.googleapis.com/auth/devstorage.read_only"]
_MENDS: Final[Mapping[ImageReason, str]] = {
    ImageReason.NOT_FOUND: "give the table of the newest snapshot as --source: images go with their snapshot",
    ImageReason.UNREADABLE: "look at the object; leave such rows out with --where, or give other images with --columns",
    ImageReason.UNSUPPORTED: "give images in JPEG, PNG, WebP, HEIC or HEIF",
}


def check_sample(context: Context) -> Seen:
    """The account that will do the work can read an image of the source."""
    uris = model_probe.sample_uris(context.source, context.bq, context.location)
    if not uris:
        if not context.bq.query_rows(cost_estimate.any_row_query(context.source), location=context.location):
            raise UserError(
                f"the source has no rows: {context.source.label}", fix="give a table that holds images as --source"
            )
        raise UserError(
            "the source has no image whose address begins with gs://", fix="--columns=uri=COLUMN, or a --query"
        )
    concern, client, who = None, None, context.member
    if context.dataflow:
        who = f"serviceAccount:{_worker(context)}"
        try:
            client = _client_of(context, who.partition(":")[2])
        except (google.auth.exceptions.GoogleAuthError, ImagebeamError) as error:
            context.trying("read an image as the workers' account", account=who.partition(":")[2])
            why = explain_error(error, context.place)
            concern = CheckWarning(
                f"nobody knows whether the workers can read images: {why.cause}",
                why.fix,
                why.permission,
                found=f"read with your own account, not as {who}",
            )
            who = context.member
    problems = []
    for uri in uris:
        bucket = uri.removeprefix("gs://").partition("/")[0]
        context.trying(f"read {uri} as {who}", bucket=bucket)
        try:
            data = storage.read_image(uri, client=client)
            context.sample = _sample(context, uri, data)
        except images.ImageError as problem:
            problems.append(problem)
            continue
        return concern or f"{uri}, {len(data):,} bytes, as {who}"
    if client is not None:
        context.place = iam_roles.Access(context.settings.project, who, bucket=context.place.bucket)
    first = problems[0]
    raise UserError(f"no image of {len(uris)} can be used: {first}", fix=_MENDS.get(first.reason, "")) from first


def _sample(context: Context, uri: str, data: bytes) -> Sample:
    """An image in every way that it can travel.

    Raises:
        ImageError: It is none that Gemini takes, or too large for the one way that there is.
    """
    wanted = context.task.image
    mime = supported_mime(data[:SNIFF_BYTES], uri)
    # Without a crop: a box belongs to a row, and nothing depends on it here.
    ways = {} if _inline_only(context) else {Transport.URI: ImagePart(mime, uri=uri)}
    try:
        made = images.prepare(data, crop=None, padding=wanted.padding, max_side=wanted.max_side, quality=wanted.quality)
    except images.ImageError as problem:
        if problem.reason is not ImageReason.TOO_LARGE or not ways:
            raise
    else:
        ways[Transport.INLINE] = ImagePart(made.mime_type, data=made.data)
    return Sample(uri, ways)


def _inline_only(context: Context) -> bool:
    return context.settings.transport == Transport.INLINE or context.task.image.changes_images


def check_model(context: Context) -> Seen:
    """The model answers at the location, and stays."""
    settings, profile = context.settings, context.profile
    profile.check(settings.location, settings.lane, context.task)
    asyncio.run(model_probe.check_exists(settings, context.task))
    if warning := checks.retirement(profile):
        return CheckWarning(warning, fix="--model=NAME, or model: in the task; another model is another version")
    return f"{profile.name} at {settings.location}"


def check_probe(context: Context) -> Seen:
    """The model answers about a real image, by its URI and with its bytes; that decides the transport."""
    settings, task, sample = context.settings, context.task, context.sample
    if not context.probe:
        if not task.counts_tokens:
            return Skipped("--no_probe, and embedding models have no call that is free")
        if _inline_only(context):
            return Skipped("--no_probe, and images travel with their bytes")
        context.trying(f"countTokens of {sample.uri}, free of charge (--no_probe)")
        found = asyncio.run(model_probe.free_transport(settings, task, [sample.uri]))
        return _by_uri_or_not(context, readable=found == Transport.URI, found="free countTokens")
    context.trying(f"paid calls about {sample.uri}, outside the books of every run")
    image = Image("preflight", sample.uri)
    asked = asyncio.run(model_probe.ask_once(settings, task, context.profile, image, sample.ways))
    usd = sum((one.usd for one in asked.values()), Decimal(0))
    spent = f"paid calls: {len(asked)}, ${usd:.6f}, in no run's books"
    return _judged(context, asked, spent)


def _judged(context: Context, asked: Mapping[Transport, Asked], spent: str) -> Seen:
    """What the answers mean together."""
    failures = {way: one.failure for way, one in asked.items() if one.failure is not None}
    for way, failure in failures.items():
        if failure.kind is FailureKind.RUN:
            raise ApiError(f"calling {context.task.model} with the image by {way}", failure, body=asked[way].body)
    if failures and all(failure.kind is FailureKind.THROTTLED for failure in failures.values()):
        return CheckWarning(
            f"the quota is used up right now: {next(iter(failures.values())).message}",
            fix="nothing: a run waits and slows down; or another --location, or --lane=flex",
            found=spent,
        )
    if failures and failures.keys() == asked.keys():
        raise _unanswered(failures)
    if Transport.URI not in asked:
        context.transport = Transport.INLINE
        return f"images travel with their bytes; {spent}"
    if Transport.URI in failures and failures[Transport.URI].reason != "FORBIDDEN":
        return CheckWarning(
            f"by URI there was no answer: {failures[Transport.URI].reason}: {failures[Transport.URI].message}",
            fix="--transport=inline, if that stays so",
            found=spent,
        )
    return _by_uri_or_not(context, readable=Transport.URI not in failures, found=spent)


def _by_uri_or_not(context: Context, *, readable: bool, found: str) -> Seen:
    context.transport = Transport.URI if readable else Transport.INLINE
    if readable:
        return f"images travel by URI; {found}"
    agent = vertex_service_agent(_project_number(context) or "PROJECT_NUMBER")
    bucket = context.sample.uri.removeprefix("gs://").partition("/")[0]
    grant = bucket_grant_command(bucket, f"serviceAccount:{agent}", "roles/storage.objectViewer")
    if context.settings.lane == Lane.BATCH:
        raise batch_checks.unreadable(context.task, grant=grant)
    if context.settings.transport == Transport.URI:
        raise UserError(
            "the service may not read these images by their URIs",
            permission=f"storage.objects.get: roles/storage.objectViewer on gs://{bucket} for {agent}",
            fix="--transport=auto, which sends their bytes",
        )
    return CheckWarning(
        "the service may not read these images by their URIs, so their bytes travel through this machine or the "
        "workers: slower, and --lane=batch is not possible",
        fix=grant,
        permission=f"storage.objects.get on gs://{bucket} for {agent}",
        found=f"images travel with their bytes; {found}",
    )


def _unanswered(failures: Mapping[Transport, Failure]) -> ImagebeamError:
    last = list(failures.values())[-1]
    said = f"no answer, by {' or by '.join(failures)}: {last.reason}: {last.message}"
    if last.kind is FailureKind.UNIT:
        return UserError(said, fix="look at the image, and at the task (imagebeam tasks check)")
    return SystemicError(said)


def check_agent(context: Context) -> Seen:
    """Vertex AI's own account can read and write the work directory, where jobs have their files."""
    directory = context.settings.work_dir
    if not context.task.counts_tokens:
        return Skipped("embedding models have no call that is free, and that reads a file")
    bucket = directory.removeprefix("gs://").partition("/")[0]
    number = _project_number(context)
    agent = vertex_service_agent(number or "PROJECT_NUMBER")
    grant = bucket_grant_command(bucket, f"serviceAccount:{agent}", "roles/storage.objectUser")
    needed = f"storage.objects.get, create and list: roles/storage.objectUser on gs://{bucket} for {agent}"
    uri = storage.join(directory, f".probe-{os.getpid()}.png")
    context.trying(f"let {agent} read {uri}, written for it and deleted; countTokens, free")
    storage.write(uri, _picture(), content_type="image/png")
    try:
        transport = asyncio.run(model_probe.free_transport(context.settings, context.task, [uri]))
    finally:
        storage.delete(uri)
    if transport == Transport.INLINE:
        raise UserError(f"Vertex AI may not read gs://{bucket}", permission=needed, fix=grant)
    try:
        owner = str(storage.storage_client().get_bucket(bucket).project_number or "")
    except api_errors.Forbidden:
        owner = ""
    if owner and number and owner != number:
        return CheckWarning(
            f"bucket {bucket} belongs to another project (number {owner}), and whether {agent} may write there shows "
            "only when a job ends",
            fix=grant,
            permission=needed,
        )
    return f"{agent} reads {directory}"


def check_roles(context: Context) -> Seen:
    """The account has on the project what only a paid or lasting act would prove."""
    settings = context.settings
    wanted = _roles(context)
    context.trying(f"ask which of these {context.member} has on project {settings.project}: {', '.join(wanted)}")
    client = RestClient(f"{service_url('cloudresourcemanager')}/v3", context.credentials)
    try:
        answer = client.call("POST", f"projects/{settings.project}:testIamPermissions", body={"permissions": wanted})
    except ApiError as error:
        if not error.is_rejection:
            raise
        return Skipped(f"{explain_error(error, context.place).cause}: {', '.join(wanted)} cannot be asked about")
    missing = [permission for permission in wanted if permission not in answer.get("permissions", ())]
    if missing:
        raise UserError(
            f"{context.member} lacks {', '.join(missing)} on project {settings.project}",
            permission="; ".join(iam_roles.describe_role(permission, context.place) for permission in missing),
            fix=" && ".join(iam_roles.grant_command(permission, context.place) for permission in missing),
        )
    return ", ".join(wanted)


def needs_roles(context: Context) -> bool:
    """Whether there is something to ask about."""
    return bool(_roles(context))


def check_dataflow(context: Context) -> Seen:
    """Dataflow is enabled, and the job can be staged."""
    project, region = context.settings.project, context.beam.region
    context.trying(f"list the jobs of project {project} in {region}, write and delete a file where the job is staged")
    client = RestClient(f"{str(context.beam.dataflow_endpoint).rstrip('/')}/v1b3", context.credentials)
    client.call("GET", f"projects/{project}/locations/{region}/jobs", params={"pageSize": "1"})
    dataflow_staging.check(context.beam_args)
    return f"jobs run in {region}, workers: {context.settings.dataflow_workers}"


def check_connection(context: Context) -> Seen:
    """BigQuery's connection to the model is there, and its account may read the images."""
    settings = context.settings
    assert isinstance(settings, EmbedSettings)  # noqa: S101  (the lane sql has no other)
    route = embed_setup.build_route(settings, context.outcomes, context.location)
    partly = embed_setup.check_listed(route, context.run, context.bq)
    context.trying(f"read connection {settings.connection}")
    account = sql_jobs.connection_account(route.connection, settings.project, route.location)
    if account is None:
        if not isinstance(route.connection, Connection) or settings.create_connection:
            return CheckWarning(partly, found="the run makes it") if partly else "the run makes it"
        raise UserError(
            f"there is no connection {route.connection.dotted}, or it may not be seen",
            permission="bigquery.connections.get: roles/bigquery.connectionUser",
            fix=f"{create_connection_command(route.connection)}, or --create_connection",
        )
    buckets = embed_setup.buckets_of(context.source, route, context.bq, context.location)
    foreign = embed_setup.foreign_buckets(route, buckets, settings.project)
    concerns = [*foreign[:1], *([partly] if partly else [])]
    return CheckWarning("; ".join(concerns), found=account[0]) if concerns else account[0]


def check_quota(context: Context) -> Seen:
    """What pace to expect; nothing can be asked, so nothing can fail."""
    settings, profile = context.settings, context.profile
    if settings.lane == Lane.BATCH:
        return "batch jobs have no quota of calls; one may wait up to 72 hours"
    fixed = profile.fixed_rpm(settings.location)
    if fixed is not None:
        return f"fixed: {fixed:,} calls a minute for {profile.name} at {settings.location}; --max_rpm says your own"
    if settings.location != "global" or context.task.vector_dimension is not None:
        return f"shared, no published figure for {profile.name} at {settings.location}; a run finds what is granted"
    tokens = max(1, call_tokens(profile, context.task))
    tiers = ", ".join(f"{grant / tokens / 60:,.0f}/s in tier {tier}" for tier, grant in TIERS.items())
    return f"shared: at about {tokens:,} tokens a call {tiers}; a run finds what is granted"


def _roles(context: Context) -> list[str]:
    settings = context.settings
    wanted = {
        "bigquery.datasets.create": context.create is not None,
        "aiplatform.batchPredictionJobs.create": settings.lane == Lane.BATCH,
        "aiplatform.endpoints.predict": not context.probe and isinstance(settings, EmbedSettings),
        "dataflow.jobs.create": context.dataflow,
    }
    return [permission for permission, asked in wanted.items() if asked]


def _worker(context: Context) -> str:
    """The account of the workers of Dataflow.

    Raises:
        UserError: Nobody named one, and the project's number, which is part of the default one, may not be seen.
    """
    if context.beam.service_account_email:
        return str(context.beam.service_account_email)
    number = _project_number(context)
    if not number:
        raise UserError(
            "which account the workers have cannot be seen", fix="--service_account_email=ACCOUNT, which says it"
        )
    return f"{number}-compute@developer.gserviceaccount.com"


def _client_of(context: Context, account: str) -> gcs.Client:
    """Cloud Storage as another account sees it.

    Raises:
        google.auth.exceptions.GoogleAuthError: This account may not act as that one.
    """
    base = service_url("iamcredentials")
    credentials = impersonated_credentials.Credentials(
        source_credentials=context.credentials,
        target_principal=account,
        target_scopes=_READ_ONLY,
        iam_endpoint_override=f"{base}/v1/projects/-/serviceAccounts/{account}:generateAccessToken",
    )
    credentials.refresh(google.auth.transport.requests.Request())
    return gcs.Client(project=context.settings.project, credentials=credentials)


def _project_number(context: Context) -> str:
    """The project's number, which stands in the name of an account that every project has; empty if not seen."""
    try:
        account = str(storage.storage_client().get_service_account_email(project=context.settings.project))
    except (api_errors.GoogleAPIError, google.auth.exceptions.GoogleAuthError, OSError):
        return ""
    found = re.fullmatch(r"service-(\d+)@.+", account)
    return found[1] if found else ""


def _picture() -> bytes:
    stream = io.BytesIO()
    Pictures.new("RGB", (64, 64), "gray").save(stream, "PNG")
    return stream.getvalue()
