"""The sample dataset of the local Google Cloud, put there through the unchanged Google clients."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import google.cloud.storage as storage
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import bigquery
from requests.adapters import HTTPAdapter

from imagebeam.emulators.sample_data.rows import BUCKET, Content, make_content
from imagebeam.emulators.sample_data.tables import DATASET, LOCATION, TABLES

#: Connections at once.
THREADS: Final = 8


def build_dataset(url: str, project: str, *, units: int = 300, seed: int = 0) -> None:
    """Make a Street View Insights project in small: real photographs, tables like the real ones, real traps.

    Bucket ``imagebeam-local-frames`` and dataset ``imagery_insights___us`` with the tables of 2025
    (``latest_observations``, ...) and of 2026 (``cropped_observations_latest``, ...). What an earlier call
    put into the tables is replaced.

    Among the rows of ``latest_observations`` are two without an address, one whose object is cut off, one
    whose object is missing and one PNG that is called ``.jpg``; in ``all_observations`` some observations
    occur in two snapshots under two addresses; most assets have no image. Panoramas have no asset, and most
    have no ``pano_id``.

    Args:
        url: The local cloud, ``http://127.0.0.1:<port>``.
        project: Its project.
        units: Rows of ``latest_observations``, at least 1, all different observations. Traps need 10.
        seed: The same one gives the same dataset; only the snapshots are always some days old.
    """
    content = make_content(units, seed)
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
    """Return connections that go straight to the local cloud, whatever proxies the environment names."""
    session = AuthorizedSession(AnonymousCredentials())
    session.trust_env = False
    session.mount("http://", HTTPAdapter(pool_maxsize=THREADS))
    return session


def _load(client: bigquery.Client, table: str, name: str, rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    job = bigquery.LoadJobConfig(schema=TABLES[name], write_disposition=bigquery.WriteDisposition.WRITE_TRUNCATE)
    client.load_table_from_json(rows[name], table, job_config=job).result()


def _upload(client: storage.Client, content: Content, threads: ThreadPoolExecutor) -> None:
    bucket = client.bucket(BUCKET)
    if not bucket.exists():
        bucket.create(location=LOCATION)

    def upload(name: str) -> None:
        kind = "image/png" if name.endswith(".png") else "image/jpeg"
        bucket.blob(name).upload_from_string(content.data(name), content_type=kind)

    for _ in threads.map(upload, content.objects):
        pass  # raises what an upload raised
