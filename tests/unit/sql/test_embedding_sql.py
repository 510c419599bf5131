"""The statements of the SQL lane: golden file, syntax, parameters, and names that cannot break them."""

import dataclasses
from decimal import Decimal

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp
from support.paths import GOLDEN

from imagebeam.pipeline.diagnostics import iam_roles
from imagebeam.pipeline.embed_sql import ddl as setup
from imagebeam.pipeline.embed_sql import statements as route
from imagebeam.pipeline.embed_sql.ddl import Connection, ConnectionGrants, Endpoint, ObjectTable
from imagebeam.pipeline.embed_sql.staging import NO_URI_CHUNK, StagingTable, Target, hash_task
from imagebeam.pipeline.embed_sql.statements import ModelCall
from imagebeam.pipeline.similarity.sql import model_query, save_query, search_query, vector_query
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.tasks.embedding import embed_task

GOLDEN_SQL = GOLDEN / "embedding.sql"
OUTCOMES = TableName("my-project", "answers", "outcomes")
TASK = embed_task("multimodalembedding@001", 512)
TARGET = Target(OUTCOMES, TASK.name, TASK.version, TASK.model, 512, "20261121-063000-abcdef")
PENDING = StagingTable(OUTCOMES, hash_task(TASK.name), "0123456789ab")
CONNECTION = Connection("my-project", "us", "imagery")
ENDPOINT = Endpoint.parse("multimodalembedding@001")
OBJECTS = ObjectTable(("gs://my-bucket/obs/*.jpg", "gs://my-bucket/more/*"), 240, "MANUAL")
IMAGES = setup.object_table_name(OUTCOMES, OBJECTS, CONNECTION)
MODEL = setup.model_name(OUTCOMES, ENDPOINT, CONNECTION)
STAGED = dataclasses.replace(PENDING, chunk=1)
REMAINING = Query("SELECT * FROM `my-project.somewhere.due_units`")
VECTOR = (0.25, -0.5)


def text(statement: str | Query) -> str:
    return statement if isinstance(statement, str) else statement.sql


#: Every statement of the lane, in order.
STATEMENTS: dict[str, str | Query] = {
    "connection": setup.create_connection(CONNECTION),
    "object table": setup.create_object_table(IMAGES, OBJECTS, CONNECTION),
    "object table, always new, default connection": setup.create_object_table(
        IMAGES, dataclasses.replace(OBJECTS, staleness_minutes=0), None
    ),
    "refresh": setup.refresh_object_table(IMAGES),
    "model": setup.create_model(MODEL, ENDPOINT, CONNECTION),
    "model by URL, default connection": setup.create_model(
        MODEL,
        Endpoint.parse(
            "https://us-central1-aiplatform.googleapis.com/v1/projects/other/locations/us-central1/publishers/google/"
            "models/multimodalembedding@001"
        ),
        None,
    ),
    "pending": route.pending_query(REMAINING, PENDING, TARGET, rows=200_000),
    "chunks": route.chunks_query(PENDING),
    "source counts": route.source_counts_query(PENDING),
    "embed from URIs": route.embed_query(STAGED, ModelCall(MODEL, 512, CONNECTION)),
    "embed from URIs, default connection": route.embed_query(STAGED, ModelCall(MODEL, 512)),
    "embed from the object table": route.embed_query(STAGED, ModelCall(MODEL, 512, CONNECTION, IMAGES)),
    "no URI": route.embed_query(dataclasses.replace(PENDING, chunk=NO_URI_CHUNK), ModelCall(MODEL, 512)),
    "counts of a chunk": route.staged_counts_query(STAGED),
    "vectors": route.insert_vectors_query(STAGED, TARGET),
    "outcomes": route.insert_outcomes_query(STAGED, TARGET, last=False, price_usd=Decimal("0.0001")),
    "outcomes of the last pass": route.insert_outcomes_query(STAGED, TARGET, last=True),
    "remainder": route.remainder_query(PENDING, TARGET, rows=200_000),
    "drop": route.drop_query(STAGED),
    "search": search_query(TARGET.embeddings, VECTOR, 5),
    "search by a unit": search_query(TARGET.embeddings, VECTOR, 5, where="asset_type = 'POLE'", without="o1:x"),
    "search, saved": save_query(search_query(TARGET.embeddings, VECTOR, 5), OUTCOMES, replace=False),
    "vector of a unit": vector_query(TARGET.embeddings, "o1:x"),
    "model of a table": model_query(TARGET.embeddings),
}
#: Statements that sqlglot does not parse; only the golden file checks them.
OPAQUE = {"connection", "object table", "object table, always new, default connection", "refresh"}


def as_document() -> str:
    parts = [f"-- {name}\n{text(statement)};\n" for name, statement in STATEMENTS.items()]
    return "\n".join(parts)


def test_statements_match_the_golden_file() -> None:
    assert as_document() == GOLDEN_SQL.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_parse_as_bigquery_sql(name: str) -> None:
    tree = sqlglot.parse_one(text(STATEMENTS[name]), read="bigquery")
    assert isinstance(tree, exp.Command) == (name in OPAQUE)


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_use_their_parameters(name: str) -> None:
    statement = STATEMENTS[name]
    tree = sqlglot.parse_one(text(statement), read="bigquery")
    given_names = {parameter.name for parameter in statement.parameters} if isinstance(statement, Query) else set()
    assert {node.name for node in tree.find_all(exp.Parameter)} == given_names


def test_names_depend_on_the_definition() -> None:
    other = dataclasses.replace(OBJECTS, staleness_minutes=60)
    assert setup.object_table_name(OUTCOMES, other, CONNECTION) != IMAGES
    assert setup.object_table_name(OUTCOMES, OBJECTS, None) != IMAGES
    assert setup.model_name(OUTCOMES, ENDPOINT, None) != MODEL
    assert setup.model_name(OUTCOMES, Endpoint.parse("gemini-embedding-2"), CONNECTION) != MODEL


def test_grants_roles_to_the_accounts_of_the_connections() -> None:
    caller, reader = "bqcx-1@x.iam.gserviceaccount.com", "bqcx-2@x.iam.gserviceaccount.com"
    add, read = "add-iam-policy-binding", "--role=roles/storage.objectViewer --condition=None"
    assert setup.grant_commands("theirs", caller, reader, ["b", "a", "b"]) == [
        f"gcloud projects {add} theirs --member=serviceAccount:{caller} --role=roles/aiplatform.user --condition=None",
        f"gcloud storage buckets {add} gs://a --member=serviceAccount:{reader} {read}",
        f"gcloud storage buckets {add} gs://b --member=serviceAccount:{reader} {read}",
    ]


def test_warns_about_buckets_of_other_projects() -> None:
    said = iam_roles.foreign_bucket_warning(
        "theirs", "222", "111", "bqcx-111-ab@gcp-sa-bigquery-condel.iam.gserviceaccount.com"
    )
    assert said is not None
    assert "roles/storage.admin on it to service-111@gcp-sa-aiplatform.iam.gserviceaccount.com" in said
    assert "roles/storage.objectViewer to bqcx-111-ab@" in said
    assert iam_roles.foreign_bucket_warning("mine", "111", "111", "x") is None
    assert iam_roles.foreign_bucket_warning("unknown", "", "111", "x") is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Connection.parse("imagery", "my-project"), "LOCATION.NAME"),
        (lambda: Connection.parse("us.a`b.c d", "my-project"), "not a connection"),
        (lambda: Connection.parse("", "my-project"), "not a connection"),
        (lambda: Connection.parse("projects/p/locations/us/c", "my-project"), "not a connection"),
        (lambda: setup.check_connection_location(Connection("p", "eu", "c"), "p.d", "US"), "is in eu, but dataset p.d"),
        (lambda: Endpoint.parse("x'); DROP"), "neither the name nor the URL of a model"),
        (lambda: Endpoint.parse("https://evil.example/v1/projects/p/models/m"), "neither"),
        (lambda: ObjectTable(()), "empty"),
        (lambda: ObjectTable(("gs://bucket/*",), 10), "30 to"),
        (lambda: ObjectTable(("gs://bucket/*/*",)), "at most one \\*"),
        (lambda: ObjectTable(("/tmp/x",)), "not a prefix"),
        (lambda: route.pending_query(REMAINING, PENDING, TARGET, rows=0), "rows_per_job=0"),
        (lambda: search_query(OUTCOMES, VECTOR, 0), "top_k=0"),
        (lambda: search_query(OUTCOMES, VECTOR, 5, where="a) OR (b"), "is unmatched"),
        (lambda: search_query(OUTCOMES, VECTOR, 5, where="a; DROP TABLE x"), "semicolon"),
    ],
)  # fmt: skip
def test_rejects_invalid_names_and_numbers_in_one_line(wrong: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        wrong()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("connection", "message", "said"),
    [
        (CONNECTION, "Not found: Connection my-project.us.imagery", "create it with `bq mk --connection --location=us"),
        (None, "Not found: Connection default", "roles/bigquery.admin"),
        (CONNECTION, "Connection is in eu: they must be in the same location", "use a connection in us"),
        (
            CONNECTION,
            "bqcx-1@x does not have the permission to access resource",
            "objectViewer on gs://frames to bqcx-1@x, and roles/aiplatform.user on project vertex-project",
        ),
        (
            CONNECTION,
            "Permission denied while globbing file pattern",
            "--role=roles/aiplatform.user --condition=None && gcloud storage buckets add-iam-policy-binding gs://frames",
        ),
        (
            CONNECTION,
            "BigQuery Connection API has not been used in project my-project before or it is disabled.",
            "gcloud services enable bigqueryconnection.googleapis.com --project=my-project",
        ),
        (CONNECTION, "something\nelse", "BigQuery rejects the statement: something else"),
    ],
)
def test_explains_rejections_in_one_line_with_a_fix(connection: Connection | None, message: str, said: str) -> None:
    show = setup.account_command(connection, "my-project", "US")
    for account in ("bqcx-1@x", None):
        line = setup.explain_rejection(
            message,
            connection=connection,
            project="my-project",
            dataset="my-project.answers",
            location="US",
            grants=ConnectionGrants("vertex-project", ("frames",), account, account, show, show),
        )
        assert "\n" not in line
        assert said in line or (account is None and "bq show --connection" in line)


@pytest.mark.parametrize(
    "given_text",
    [
        "us.imagery",
        "US.imagery",
        "my-project.us.imagery",
        "`my-project.us.imagery`",
        "projects/my-project/locations/us/connections/imagery",
        "projects/my-project/locations/US/connections/imagery ",
    ],
)
def test_parses_every_form_of_a_connection(given_text: str) -> None:
    assert Connection.parse(given_text, "my-project") == CONNECTION


@pytest.mark.parametrize(
    ("given_text", "endpoint"),
    [
        ("multimodalembedding@001", ENDPOINT),
        ("https://aiplatform.googleapis.com/v1/projects/p/locations/us/publishers/google/models/m@001", ("m@001", "p")),
        (
            "https://aiplatform.googleapis.com/v1beta1/projects/7/locations/us/publishers/google/models/m-1:predict",
            ("m-1", "7"),
        ),
        ("https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/endpoints/1", None),
        ("", None),
    ],
)
def test_reads_the_endpoint_of_a_remote_model(given_text: str, endpoint: tuple[str, str] | Endpoint | None) -> None:
    found = Endpoint.read(given_text)
    if isinstance(endpoint, tuple):
        assert found is not None
        assert (found.model, found.project) == endpoint
    else:
        assert found == endpoint


@pytest.mark.parametrize("given_text", ["DEFAULT", "default", "`DEFAULT`"])
def test_parses_the_default_connection(given_text: str) -> None:
    assert Connection.parse(given_text, "p") is None


@given(st.text(max_size=40))
def test_only_names_get_into_a_statement_as_a_connection(given_text: str) -> None:
    try:
        found = Connection.parse(given_text, "my-project")
    except UserError:
        return
    name = setup.connection_sql(found)
    assert name == "DEFAULT" or (name.count("`") == 2 and name.startswith("`") and name.endswith("`"))
    assert not set(name) & set("'\"\\;()\n ")


@given(st.text(max_size=40), st.text(max_size=40))
def test_literals_hold_any_prefix_and_endpoint(uri: str, name: str) -> None:
    """A value that passes validation is exactly one literal of the statement."""
    try:
        objects, endpoint = ObjectTable((f"gs://bucket/{uri}",)), Endpoint.parse(name or "x")
    except UserError:
        return
    tokens = sqlglot.tokenize(setup.create_object_table(IMAGES, objects, None), read="bigquery")
    assert [token.text for token in tokens if token.token_type.name == "STRING"] == ["SIMPLE", f"gs://bucket/{uri}"]
    assert setup.create_model(MODEL, endpoint, None).count("'") == 2


@given(st.text(max_size=60), st.text(alphabet="abc-0123", min_size=1, max_size=20))
def test_reads_the_run_back_from_a_table_description(task: str, run_id: str) -> None:
    target = dataclasses.replace(TARGET, task=task, run_id=run_id)
    statement = route.pending_query(REMAINING, PENDING, target, rows=10).sql
    (description,) = [
        token.text
        for token in sqlglot.tokenize(statement, read="bigquery")
        if token.token_type.name == "STRING" and token.text.startswith("{")
    ]
    assert Target.read(OUTCOMES, description) == target


@given(st.integers(1, 999), st.integers(-1, 99_999) | st.none())
def test_parses_the_name_of_a_staging_table(number: int, chunk: int | None) -> None:
    staging = dataclasses.replace(PENDING, number=number, chunk=chunk)
    assert StagingTable.read(staging.table) == staging
    assert staging.job.startswith("imagebeam-embed-")
    assert set(staging.job) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_ignores_other_tables_and_descriptions() -> None:
    assert StagingTable.read(OUTCOMES) is None
    assert StagingTable.read(TARGET.embeddings) is None
    assert Target.read(OUTCOMES, "imagebeam: chunk 1") is None
    assert Target.read(OUTCOMES, '{"task": 1}') is None
