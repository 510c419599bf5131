"""The samples of two pages of Google's documentation run on the local cloud as printed, with filled placeholders.

`support/google_documents/README.md` names the pages. The public inputs of the samples do not exist here: the bucket
``cloud-samples-data`` is created, and the project ``storage-samples`` is replaced by that of the local cloud.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import google.auth
import google.cloud.storage as storage
import pytest
from google import genai
from google.auth.transport.requests import AuthorizedSession
from google.cloud import bigquery
from support.paths import ROOT

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.images import Picture, photos, render

DOCUMENTS = ROOT / "tests/support/google_documents"
#: Bucket, object, dataset and table that the Python samples read.
SAMPLE_BUCKET, SAMPLE_FILE = "cloud-samples-data", "batch/prompt_for_batch_gemini_predict.jsonl"
SAMPLE_DATASET, SAMPLE_TABLE = "generative_ai", "batch_requests_for_multimodal_input"
LOCATION, MODEL = "us-central1", "gemini-2.5-flash"
ROWS = 3
PLACES = ("gs", "bq")


@dataclass(frozen=True)
class Lab:
    """Inputs of the samples, and where they write.

    Attributes:
        cloud: The local cloud.
        session: HTTP session with the caller's credentials.
        bq: BigQuery client.
        bucket: The bucket of inputs and outputs.
        connection: Id of a connection.
    """

    cloud: LocalCloud
    session: AuthorizedSession
    bq: bigquery.Client
    bucket: storage.Bucket
    connection: str

    def input(self, place: str) -> str:
        """URI of the input: a file or a table with the same requests."""
        if place == "gs":
            return f"gs://{SAMPLE_BUCKET}/{SAMPLE_FILE}"
        return f"bq://{self.cloud.project}.{SAMPLE_DATASET}.{SAMPLE_TABLE}"

    def output(self, place: str, name: str) -> str:
        """URI of a new output."""
        return f"gs://{SAMPLE_BUCKET}/{name}" if place == "gs" else f"bq://{self.cloud.project}.{SAMPLE_DATASET}.{name}"

    def answers(self, output: str) -> list[str]:
        """Texts of the answers in an output."""
        if output.startswith("bq://"):
            sql = (
                "SELECT JSON_VALUE(response.candidates[0].content.parts[0].text) AS text "
                f"FROM `{output.removeprefix('bq://')}` WHERE status = ''"
            )
            return [str(row["text"]) for row in self.bq.query_and_wait(sql)]
        folder = output.removeprefix(f"gs://{SAMPLE_BUCKET}/")
        files = [
            blob for blob in self.bucket.list_blobs(prefix=f"{folder}/") if blob.name.endswith("/predictions.jsonl")
        ]
        lines = [json.loads(line) for blob in files for line in blob.download_as_text().splitlines()]
        return [line["response"]["candidates"][0]["content"]["parts"][0]["text"] for line in lines]

    def statement(self, name: str, values: Mapping[str, str], *, default: bool = False) -> list[dict[str, Any]]:
        """Run a statement with filled placeholders and, if it names a connection, one of the two alternatives."""
        connection = "DEFAULT" if default else f"`{self.cloud.project}.{LOCATION}.{self.connection}`"
        text = re.sub(r"\{[^}]*\}", connection, fill(name, {"PROJECT_ID": self.cloud.project, **values}))
        return [dict(row.items()) for row in self.bq.query_and_wait(text)]

    def count(self, table: str) -> int:
        (row,) = self.bq.query_and_wait(f"SELECT COUNT(*) AS n FROM mydataset.{table}")
        return int(row["n"])


def fill(name: str, values: Mapping[str, str]) -> str:
    """Return a sample in which every placeholder has its value."""
    text = (DOCUMENTS / name).read_text(encoding="utf-8")
    for placeholder, value in values.items():
        assert placeholder in text, f"{name} has no {placeholder}"
        text = text.replace(placeholder, value)
    return text


@pytest.fixture(scope="module")
def lab(cloud: LocalCloud) -> Iterator[Lab]:
    storage_client, bq = storage.Client(), bigquery.Client()
    bucket = storage_client.create_bucket(SAMPLE_BUCKET)
    requests = []
    for photo in photos()[:ROWS]:
        path = f"images/{photo}.jpg"
        bucket.blob(path).upload_from_string(render(Picture(photo, (10, 10, 200, 160), (190, 150), "plain")))
        image = {"fileData": {"fileUri": f"gs://{SAMPLE_BUCKET}/{path}", "mimeType": "image/jpeg"}}
        requests.append({"contents": [{"role": "user", "parts": [{"text": "What is in this image?"}, image]}]})
    lines = "\n".join(json.dumps({"request": request}) for request in requests)
    bucket.blob(SAMPLE_FILE).upload_from_string(lines)
    for name in (SAMPLE_DATASET, "mydataset"):
        dataset = bigquery.Dataset(f"{cloud.project}.{name}")
        dataset.location = LOCATION
        bq.create_dataset(dataset)
    rows = [{"request": json.dumps(request)} for request in requests]
    schema = [bigquery.SchemaField("request", "STRING")]
    config = bigquery.LoadJobConfig(schema=schema)
    bq.load_table_from_json(rows, f"{SAMPLE_DATASET}.{SAMPLE_TABLE}", job_config=config).result()
    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    with AuthorizedSession(credentials) as session:
        lab = Lab(cloud, session, bq, bucket, "my_cloud_resource_connection")
        # bq mk --connection --location=REGION --project_id=PROJECT_ID --connection_type=CLOUD_RESOURCE CONNECTION_ID
        parent = f"{cloud.url}/v1/projects/{cloud.project}/locations/{LOCATION}/connections"
        made = session.post(parent, params={"connectionId": lab.connection}, json={"cloudResource": {}})
        assert made.status_code == 200
        yield lab
        session.delete(f"{parent}/{lab.connection}")
    for name in (SAMPLE_DATASET, "mydataset"):
        bq.delete_dataset(name, delete_contents=True)
    bucket.delete(force=True)


# Get batch predictions for Gemini


def run_job(lab: Lab, body: str) -> dict[str, Any]:
    """Post a request body as the page's command does, and poll the job by its id."""
    url = f"{lab.cloud.url}/v1/projects/{lab.cloud.project}/locations/{LOCATION}/batchPredictionJobs"
    response = lab.session.post(url, data=body.encode(), headers={"Content-Type": "application/json; charset=utf-8"})
    assert response.status_code == 200, response.text
    job: dict[str, Any] = response.json()
    assert job["state"] == "JOB_STATE_PENDING"
    job_id = job["name"].rpartition("/")[2]
    while job["state"] in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING"):
        time.sleep(0.02)
        job = lab.session.get(f"{url}/{job_id}").json()
    return job


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("destination", PLACES)
def test_request_of_the_batch_page_runs(lab: Lab, source: str, destination: str) -> None:
    output = lab.output(destination, f"rest_{source}")
    to_files = destination == "gs"
    body = fill(
        "batch_cloud_storage_input_request.json" if source == "gs" else "batch_bigquery_input_request.json",
        {
            "MODEL_PATH": f"publishers/google/models/{MODEL}",
            "INPUT_URI": lab.input(source),
            "OUTPUT_FORMAT": "jsonl" if to_files else "bigquery",
            "DESTINATION": "gcsDestination" if to_files else "bigqueryDestination",
            "OUTPUT_URI_FIELD_NAME": "outputUriPrefix" if to_files else "outputUri",
            "OUTPUT_URI": output,
        },
    )
    job = run_job(lab, body)
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    assert job["completionStats"]["successfulCount"] == str(ROWS)
    answers = lab.answers(output)
    assert len(answers) == ROWS
    assert all(answers)


def test_example_syntax_of_the_batch_page_runs(lab: Lab) -> None:
    output = lab.output("bq", "example")
    body = fill("batch_example_request.json", {"${MODEL_ID}": MODEL})
    for value in ("example", lab.input("bq"), output):
        body = body.replace('"..."', json.dumps(value), 1)
    assert run_job(lab, body)["state"] == "JOB_STATE_SUCCEEDED"
    assert len(lab.answers(output)) == ROWS


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("destination", PLACES)
def test_python_sample_of_the_batch_page_runs(
    lab: Lab, source: str, destination: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = lab.output(destination, f"python_{source}")
    if source == "gs":
        program = fill(
            "batch_cloud_storage_input.py.txt",
            {'# output_uri = "gs://your-bucket/your-prefix"': f'output_uri = "{output}"'},
        )
    else:
        program = fill(
            "batch_bigquery_input.py.txt",
            {
                '# output_uri = f"bq://your-project.your_dataset.your_table"': f'output_uri = f"{output}"',
                "storage-samples": lab.cloud.project,
            },
        )
    pause = time.sleep
    monkeypatch.setattr(time, "sleep", lambda _: pause(0.02))
    exec(compile(program, f"{source}_input.py", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"Job name: projects/\d+/locations/{LOCATION}/batchPredictionJobs/\d+", printed[0])
    assert printed[1] == "Job state: JobState.JOB_STATE_PENDING"
    assert printed[-1] == "Job state: JobState.JOB_STATE_SUCCEEDED"
    assert len(lab.answers(output)) == ROWS


@pytest.mark.usefixtures("cloud")
@pytest.mark.parametrize("arguments", [{}, {"vertexai": True}, {"vertexai": True, "location": "europe-west4"}])
def test_google_genai_takes_project_and_location_from_the_environment(arguments: dict[str, Any]) -> None:
    with genai.Client(**arguments) as client:
        answer = client.models.generate_content(model=MODEL, contents="Why is the sky blue?")
    assert answer.text
    assert answer.model_version == "imagebeam-emulator"


# Generate image embeddings by using the AI.GENERATE_EMBEDDING function


EMBEDDING_URL = (
    "https://us-central1-aiplatform.googleapis.com/v1/projects/{project}/locations/us-central1/publishers/google/"
    "models/multimodalembedding@001"
)


def create_object_table(lab: Lab, table: str, uris: str, staleness: str, mode: str, *, default: bool = False) -> None:
    lab.statement(
        "embedding_create_object_table.sql",
        {
            "DATASET_ID": "mydataset",
            "TABLE_NAME": table,
            "'BUCKET_PATH'[,...]": uris,
            "STALENESS_INTERVAL": staleness,
            "CACHE_MODE": mode,
        },
        default=default,
    )


def create_model(lab: Lab, model: str, endpoint: str, *, default: bool = False) -> None:
    values = {"DATASET_ID": "mydataset", "MODEL_NAME": model, "'ENDPOINT'": f"'{endpoint}'"}
    lab.statement("embedding_create_model.sql", values, default=default)


def test_connection_of_the_embedding_page_has_a_service_account(lab: Lab) -> None:
    # bq show --connection PROJECT_ID.REGION.CONNECTION_ID
    path = f"/v1/projects/{lab.cloud.project}/locations/{LOCATION}/connections/{lab.connection}"
    shown = lab.session.get(lab.cloud.url + path).json()
    assert re.fullmatch(
        r"bqcx-\d+-\w+@gcp-sa-bigquery-condel\.iam\.gserviceaccount\.com", shown["cloudResource"]["serviceAccountId"]
    )


@pytest.mark.parametrize(
    ("staleness", "mode", "default"),
    [("0", "AUTOMATIC", False), ("INTERVAL 4 HOUR", "AUTOMATIC", True), ("INTERVAL 4 HOUR", "MANUAL", False)],
)
def test_object_table_of_the_embedding_page_lists_the_images(
    lab: Lab,
    staleness: str,
    mode: str,
    default: bool,  # noqa: FBT001
) -> None:
    table = f"images_{staleness.split()[0]}_{mode}_{default}".lower()
    folder = f"'gs://{SAMPLE_BUCKET}/images/*'"
    create_object_table(lab, table, folder, staleness, mode, default=default)
    if mode == "MANUAL":
        lab.bq.query_and_wait(f"CALL BQ.REFRESH_EXTERNAL_METADATA_CACHE('{lab.cloud.project}.mydataset.{table}')")
    assert lab.count(table) == ROWS


def test_object_table_of_the_embedding_page_takes_several_paths(lab: Lab) -> None:
    paths = ", ".join(f"'gs://{SAMPLE_BUCKET}/images/{photo}.jpg'" for photo in photos()[:2])
    create_object_table(lab, "images_two_paths", paths, "0", "MANUAL")
    assert lab.count("images_two_paths") == 2


@pytest.fixture(scope="module")
def images(lab: Lab) -> str:
    """The object table of the page's example."""
    create_object_table(lab, "images", f"'gs://{SAMPLE_BUCKET}/images/*'", "0", "MANUAL")
    return "images"


@pytest.mark.parametrize(
    ("endpoint", "default", "dimension"),
    [
        ("multimodalembedding@001", True, 128),
        ("multimodalembedding@001", False, 256),
        (EMBEDDING_URL, True, 512),
        (EMBEDDING_URL, False, 1408),
    ],
)
def test_statements_of_the_embedding_page_embed_the_images(
    lab: Lab,
    images: str,
    endpoint: str,
    default: bool,  # noqa: FBT001
    dimension: int,
) -> None:
    create_model(lab, "model", endpoint.format(project=lab.cloud.project), default=default)
    rows = lab.statement(
        "embedding_generate.sql",
        {
            "DATASET_ID": "mydataset",
            "MODEL_NAME": "model",
            "TABLE_NAME": images,
            "OUTPUT_DIMENSIONALITY": str(dimension),
        },
    )
    assert len({row["uri"] for row in rows}) == ROWS
    assert {(row["status"], len(row["embedding"])) for row in rows} == {("", dimension)}


@pytest.mark.usefixtures("images")
def test_example_of_the_embedding_page_runs_as_printed(lab: Lab) -> None:
    create_model(lab, "embedding_model", "multimodalembedding@001")
    rows = lab.bq.query_and_wait((DOCUMENTS / "embedding_example.sql").read_text(encoding="utf-8"))
    assert [len(row["embedding"]) for row in rows] == [512] * ROWS
