"""Analytics Hub of the local cloud: what is shared, what subscribing makes, what is refused."""

from typing import Any

import google.auth
import google.auth.transport.requests
import pytest
from google.api_core.exceptions import Forbidden
from google.cloud import bigquery

from imagebeam.emulators.analyticshub import EXCHANGE, HUB, LISTING
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset
from imagebeam.emulators.sample_data.tables import DATASET, TABLES
from imagebeam.pipeline.subscribe.analytics_hub import ACTIVE, AnalyticsHub, subscribe_body
from imagebeam.transforms.clients.rest import ApiError
from imagebeam.transforms.core.errors import SystemicError


@pytest.fixture(scope="module")
def project(cloud: LocalCloud) -> str:
    """The project, with the sample dataset in it."""
    build_dataset(cloud.url, cloud.project, units=10)
    return cloud.project


@pytest.fixture
def hub(cloud: LocalCloud, project: str) -> AnalyticsHub:
    return AnalyticsHub()


def send(cloud: LocalCloud, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    with google.auth.transport.requests.AuthorizedSession(credentials) as session:
        answer = session.request(method, f"{cloud.url}/v1/{path}", json=body, timeout=120)
    return answer.status_code, answer.json()


def test_finds_exchange_and_listing(hub: AnalyticsHub) -> None:
    (exchange,) = hub.shared(f"projects/{HUB}/locations/us", "dataExchanges")
    assert exchange.name == EXCHANGE
    (listing,) = hub.shared(exchange.name, "listings")
    assert listing == hub.listing(LISTING)
    assert listing.source.endswith(f"/datasets/{DATASET}")
    assert hub.shared(f"projects/{HUB}/locations/eu", "dataExchanges") == []


def test_subscription_creates_a_linked_dataset(hub: AnalyticsHub, project: str) -> None:
    made = hub.subscribe(LISTING, subscribe_body(project, "linked_one", "US"))
    assert (made.state, made.datasets) == (ACTIVE, ("linked_one",))
    assert made in hub.subscriptions(project, "us")
    client = bigquery.Client()
    resource = client.get_dataset("linked_one").to_api_repr()
    assert resource["type"] == "LINKED"
    assert resource["linkedDatasetSource"]["sourceDataset"]["datasetId"] == DATASET
    assert {table.table_id for table in client.list_tables("linked_one")} == set(TABLES)
    counts = [
        next(iter(client.query(f"SELECT COUNT(*) AS n FROM {name}.latest_observations").result())).n
        for name in ("linked_one", DATASET)
    ]
    assert counts == [10, 10]


def test_linked_dataset_is_read_only(hub: AnalyticsHub, project: str) -> None:
    hub.subscribe(LISTING, subscribe_body(project, "linked_two", "us"))
    with pytest.raises(Forbidden, match="read-only"):
        bigquery.Client().create_table(f"{project}.linked_two.mine")


def test_deleting_the_dataset_ends_the_subscription(hub: AnalyticsHub, project: str) -> None:
    name = hub.subscribe(LISTING, subscribe_body(project, "linked_three", "us")).name
    bigquery.Client().delete_dataset("linked_three", delete_contents=True)
    (left,) = [each for each in hub.subscriptions(project, "us") if each.name == name]
    assert (left.state, left.datasets) == ("STATE_INACTIVE", ())


@pytest.mark.parametrize(
    ("listing", "location", "code", "said"),
    [
        (LISTING, "EU", 400, "must be in the location of the listing, us, not EU"),
        (f"{LISTING}_x", "us", 404, "was not found"),
        (LISTING.replace(HUB, "somebody-else"), "us", 403, "or it may not exist"),
    ],
)
def test_rejects_invalid_subscriptions_with_errors_of_google(
    hub: AnalyticsHub, project: str, listing: str, location: str, code: int, said: str
) -> None:
    with pytest.raises(ApiError, match=said) as caught:
        hub.subscribe(listing, subscribe_body(project, "linked_four", location))
    assert caught.value.status == code


def test_existing_dataset_is_a_conflict(hub: AnalyticsHub, project: str) -> None:
    with pytest.raises(ApiError) as caught:
        hub.subscribe(LISTING, subscribe_body(project, DATASET, "us"))
    assert caught.value.status == 409


def test_rejects_methods_that_are_not_implemented(cloud: LocalCloud, project: str) -> None:
    for method, path, said in (
        ("DELETE", f"projects/{project}/locations/us/subscriptions/one", "DELETE /v1/projects/"),
        ("POST", EXCHANGE.rpartition("/")[0], "POST /v1/projects/"),
        ("POST", f"{LISTING}:subscribe", "without a destinationDataset"),
        ("GET", f"projects/{project}/locations/us/subscriptions?filter=x", "the parameter 'filter'"),
    ):
        code, body = send(cloud, method, path)
        assert (code, body["error"]["status"]) == (501, "UNIMPLEMENTED")
        assert said in body["error"]["message"]


def test_client_follows_pages(cloud: LocalCloud, hub: AnalyticsHub, project: str) -> None:
    for name in ("page_one", "page_two"):
        hub.subscribe(LISTING, subscribe_body(project, name, "us"))
    path = f"projects/{project}/locations/us/subscriptions"
    everything = send(cloud, "GET", path)[1]["subscriptions"]
    found, token = [], ""
    while True:
        page = send(cloud, "GET", f"{path}?pageSize=1{token}")[1]
        found += page["subscriptions"]
        if "nextPageToken" not in page:
            break
        token = f"&pageToken={page['nextPageToken']}"
    assert found == everything
    assert len(found) > 1


def test_fault_applies_a_limited_number_of_times(cloud: LocalCloud, hub: AnalyticsHub, project: str) -> None:
    cloud.faults(analyticshub={"rules": [{"match": "listings.get", "code": 503, "times": 2}]})
    assert hub.listing(LISTING).name == LISTING  # the client asks again
    assert cloud.counters()["analyticshub"]["calls"]["listings.get"] == 3
    cloud.faults(analyticshub={"rules": [{"match": "listings.get", "code": 403, "reason": "SERVICE_DISABLED"}]})
    with pytest.raises(ApiError) as caught:
        hub.listing(LISTING)
    assert caught.value.reason == "SERVICE_DISABLED"
    with pytest.raises(ValueError, match="unknown key"):
        cloud.faults(analyticshub={"rules": [{"kode": 403}]})


def test_invalid_credentials_are_a_systemic_error(cloud: LocalCloud, project: str) -> None:
    cloud.faults(token={"fail": True})
    with pytest.raises(SystemicError, match="Analytics Hub: CREDENTIALS"):
        AnalyticsHub().listing(LISTING)
