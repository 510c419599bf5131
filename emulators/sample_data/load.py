"""Load the sample dataset into the local Google Cloud through the unmodified Google clients."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import google.cloud.storage as storage
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import bigquery
from requests.adapters import HTTPAdapter

from imagebeam.emulators.sample_data.rows import BUCKET, Content, build_content
from imagebeam.emulators.sample_data.tables import DATASET, LOCATION, TABLES

#: Bucket for the files of runs, with the name that the documentation uses.
WORK_BUCKET: Final = "my-bucket"
#: Maximum number of connections.
THREADS: Final = 8


def build_dataset(url: str, project: str, *, units: int = 300, seed: int = 0) -> None:
    """Create a small Street View Insights dataset with real photographs and typical defects.

    Creates bucket ``imagebeam-local-frames`` and dataset ``imagery_insights___us`` with the tables of 2025
    (``latest_observations``, ...) and of 2026 (``cropped_observations_latest``, ...), and replaces rows of an
    earlier call. Also creates an empty bucket for the files of runs, ``my-bucket``.

    ``latest_observations`` contains two rows without a URI, one with a truncated object, one with a missing object
    and one PNG named ``.jpg``. In ``all_observations`` some observations occur in two snapshots with different URIs.
    Most assets have no image. Panoramas have no asset, and most have no ``pano_id``.

    Args:
        url: URL of the local cloud, ``http://127.0.0.1:<port>``.
        project: Project of the local cloud.
        units: Number of rows, all distinct observations, of ``latest_observations``, at least 1. Defects need 10.
        seed: Random seed, which determines everything except the age of the snapshots.
    """
    content = build_content(units, seed)
    with ThreadPoolExecutor(THREADS) as threads, _session() as session:
        options: dict[str, Any] = {"credentials": AnonymousCredentials(), "client_options": {"api_endpoint": url}}
        tables = bigquery.Client(project=project, location=LOCATION, _http=session, **options)
        dataset = bigquery.Dataset(f"{project}.{DATASET}")
        dataset.location = LOCATION
        tables.create_dataset(dataset, exists_ok=True)
        loads = [threads.submit(_load, tables, f"{project}.{DATASET}.{name}", name, content.tables) for name in TABLES]
        _upload(storage.Client(project=project, _http=session, **options), content, threads)
        for load in loads:
            load.result()


def _session() -> AuthorizedSession:
    """Return a session that connects to the local cloud directly, without the proxies of the environment."""
    session = AuthorizedSession(AnonymousCredentials())
    session.trust_env = False
    session.mount("http://", HTTPAdapter(pool_maxsize=THREADS))
    return session


def _load(client: bigquery.Client, table: str, name: str, rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    job = bigquery.LoadJobConfig(schema=TABLES[name], write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE)
    client.load_table_from_json(rows[name], table, job_config=job).result()


def _upload(client: storage.Client, content: Content, threads: ThreadPoolExecutor) -> None:
    for name in (BUCKET, WORK_BUCKET):
        if not client.bucket(name).exists():
            client.create_bucket(name, location=LOCATION)
    bucket = client.bucket(BUCKET)

    def upload(name: str) -> None:
        kind = "image/png" if name.endswith(".png") else "image/jpeg"
        bucket.blob(name).upload_from_string(content.data(name), content_type=kind)

    for _ in threads.map(upload, content.objects):
        pass  # raises the exception of a failed upload
