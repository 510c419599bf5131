"""``imagebeam subscribe``: the linked dataset, and one-line errors."""

import json
from pathlib import Path

import pytest
from google.cloud import bigquery
from support.jobs import run_cli
from support.settings_lines import subscribe_settings

from imagebeam.emulators.analyticshub import CUSTOMER, EXCHANGE, LISTING
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset
from imagebeam.transforms.core.errors import UserError

MINE = ("subscribe", f"--customer_id={CUSTOMER}")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def project(cloud: LocalCloud) -> str:
    build_dataset(cloud.url, cloud.project, units=12)
    return cloud.project


def error_line(*arguments: str) -> str:
    code, out, err = run_cli(arguments)
    assert (code, out) == (2, "")
    return err.splitlines()[-1]


# Settings


def test_derives_the_names_of_the_imagery_insights_guide(tmp_path: Path) -> None:
    given = ["--project=my-project", "--customer_id=12-34-56", "--location=EU"]
    settings = subscribe_settings(given, cwd=tmp_path, environ={})
    assert settings.listing_name == (
        "projects/maps-platform-analytics-hub/locations/eu/dataExchanges/imagery_insights_exchange_eu"
        "/listings/imagery_insights_12_34_56__eu"
    )
    assert settings.dataset_id == "imagery_insights___preview___eu"


def test_names_the_dataset_of_a_region_without_a_dash(tmp_path: Path) -> None:
    given = ["--project=my-project", "--customer_id=1", "--location=europe-west6"]
    settings = subscribe_settings(given, cwd=tmp_path, environ={})
    assert settings.dataset_id == "imagery_insights___preview___europe_west6"
    assert settings.listing_name.endswith("/listings/imagery_insights_1__europe_west6")


def test_accepts_other_names(tmp_path: Path) -> None:
    given = ["--hub_project=hub-two", "--exchange=e", "--listing=x", "--dataset=d", "--project=my-project"]
    settings = subscribe_settings(given, cwd=tmp_path, environ={})
    assert settings.listing_name == "projects/hub-two/locations/us/dataExchanges/e/listings/x"
    assert settings.dataset_id == "d"
    whole = "projects/hub-two/locations/eu/dataExchanges/e/listings/x"
    given = [f"--listing={whole}", "--location=eu", "--project=my-project"]
    assert subscribe_settings(given, cwd=tmp_path, environ={}).listing_name == whole


def test_ignores_the_model_location_of_the_config_file(tmp_path: Path) -> None:
    (tmp_path / "imagebeam.yaml").write_text("project: my-project\nlocation: europe-west6\n")
    assert subscribe_settings(["--customer_id=1"], cwd=tmp_path, environ={}).location == "us"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no listing: set --customer_id"),
        (["--list", "--dry_run"], "use one of them"),
        (["--listing=projects/p/locations/eu/dataExchanges/e/listings/x"], "use --location=eu"),
        (["--listing=projects/p/locations/us/dataExchanges/e/listings/x", "--exchange=e"], "--exchange has no effect"),
        (["--customer_id=a b"], "--customer_id"),
        (["--costumer_id=1"], "did you mean --customer_id?"),
    ],
)
def test_rejects_invalid_settings_in_one_line(tmp_path: Path, given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        subscribe_settings(["--project=my-project", *given], cwd=tmp_path, environ={})


def test_requires_a_project(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no project"):
        subscribe_settings(["--customer_id=1"], cwd=tmp_path, environ={})


def test_dry_run_prints_the_request_without_credentials() -> None:
    code, out, _ = run_cli(["subscribe", "--customer_id=12-34", "--project=my-project", "--dry_run", "--json"])
    assert code == 0
    asked = json.loads(out)
    assert asked["url"].startswith("https://analyticshub.googleapis.com/v1/projects/maps-platform-analytics-hub/")
    assert asked["url"].endswith("/listings/imagery_insights_12_34__us:subscribe")
    reference = {"projectId": "my-project", "datasetId": "imagery_insights___preview___us"}
    assert asked["body"] == {"destinationDataset": {"datasetReference": reference, "location": "us"}}


def test_missing_credentials_print_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert "run `gcloud auth application-default login`" in error_line(
        "subscribe", "--customer_id=1", "--project=my-project"
    )


# Subscribing


def test_links_a_dataset_once_and_runs_on_it(cloud: LocalCloud, project: str, tmp_path: Path) -> None:
    code, out, _ = run_cli([*MINE])
    assert code == 0
    linked, tables = out.splitlines()
    place = f"{project}.imagery_insights___preview___us"
    assert linked == f"{place} is now linked to {LISTING}"
    assert tables.endswith(f"--source={place}.cropped_observations_latest")
    code, out, _ = run_cli([*MINE, "--json"])
    again = json.loads(out)
    assert (code, again["made"], again["dataset"]) == (0, False, place)
    assert "latest_observations" in again["tables"]
    assert cloud.counters()["analyticshub"]["calls"]["listings.subscribe"] == 1
    code, out, err = run_cli(
        [
            *("classify", "--task=image_quality", f"--source={place}.latest_observations", "--results=linked_answers"),
            *("--limit=5", "--json", f"--work_dir={tmp_path / 'runs'}"),
        ]
    )
    assert code == 0, err
    assert sum(row.n for row in bigquery.Client().query("SELECT COUNT(*) n FROM linked_answers.outcomes").result()) == 5


def test_recognizes_a_linked_dataset_without_permission_to_list_subscriptions(cloud: LocalCloud, project: str) -> None:
    assert run_cli([*MINE, "--dataset=known"])[0] == 0
    cloud.faults(analyticshub={"rules": [{"match": "subscriptions.list", "code": 403, "message": "no"}]})
    code, out, _ = run_cli([*MINE, "--dataset=known"])
    assert code == 0
    assert "known is already linked to" in out
    assert cloud.counters()["analyticshub"]["calls"]["listings.subscribe"] == 1


def test_leaves_another_dataset_of_that_name_alone(cloud: LocalCloud, project: str) -> None:
    bigquery.Client().create_dataset("not_linked")
    line = error_line(*MINE, "--dataset=not_linked")
    assert f"dataset {project}.not_linked already exists and is not linked to this listing" in line
    assert "listings.subscribe" not in cloud.counters()["analyticshub"]["calls"]


def test_reports_a_conflict_without_a_subscription(cloud: LocalCloud, project: str) -> None:
    cloud.faults(analyticshub={"rules": [{"match": "listings.subscribe", "code": 409}]})
    assert "is not linked to this listing" in error_line(*MINE, "--dataset=conflict")


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            {"code": 403, "message": "Permission 'analyticshub.listings.subscribe' denied"},
            "local@imagebeam-local.iam.gserviceaccount.com needs roles/analyticshub.subscriptionOwner and",
        ),
        (
            {"code": 403, "message": "bigquery.datasets.create denied"},
            "grant roles/bigquery.user on imagebeam-local to local@imagebeam-local.iam.gserviceaccount.com",
        ),
        (
            {"code": 403, "message": "API is off", "reason": "SERVICE_DISABLED"},
            "gcloud services enable analyticshub.googleapis.com --project=imagebeam-local",
        ),
        ({"code": 400, "message": "Bad location."}, "--location must be the location of the listing"),
    ],
)
def test_explains_rejections_and_their_fix(cloud: LocalCloud, project: str, rule: dict[str, object], said: str) -> None:
    cloud.faults(analyticshub={"rules": [{"match": "listings.subscribe", **rule}]})
    assert said in error_line(*MINE, "--dataset=refused")


@pytest.mark.parametrize("more", ["--customer_id=unknown", "--location=eu"])
def test_explains_an_unknown_listing(cloud: LocalCloud, project: str, more: str) -> None:
    line = error_line(*MINE, more, "--dataset=nowhere")
    assert "check --customer_id and --location=" in line
    assert "imagebeam subscribe --list" in line


def test_invalid_credentials_exit_with_3(cloud: LocalCloud, project: str) -> None:
    cloud.faults(token={"fail": True})
    code, _, err = run_cli([*MINE])
    assert code == 3
    assert "Analytics Hub: CREDENTIALS" in err


# Listing


def test_lists_listings_and_linked_datasets(cloud: LocalCloud, project: str) -> None:
    assert run_cli([*MINE, "--dataset=listed"])[0] == 0
    code, out, _ = run_cli(["subscribe", "--list"])
    assert code == 0
    header, line = out.splitlines()
    assert header.split() == ["exchange", "listing", "title", "notes"]
    assert line.split()[:2] == [EXCHANGE.rpartition("/")[2], LISTING.rpartition("/")[2]]
    assert "linked as listed" in line
    code, out, _ = run_cli(["subscribe", "--list", "--json", f"--exchange={EXCHANGE.rpartition('/')[2]}"])
    (row,) = json.loads(out)
    assert row["listing"] == LISTING
    assert "listed" in row["linked_datasets"]


def test_lists_listings_without_permission_to_list_exchanges(cloud: LocalCloud, project: str) -> None:
    cloud.faults(analyticshub={"rules": [{"match": "dataExchanges.list", "code": 403}]})
    code, out, _ = run_cli(["subscribe", "--list"])
    assert code == 0
    assert LISTING.rpartition("/")[2] in out


def test_reports_a_location_without_listings(cloud: LocalCloud, project: str) -> None:
    code, out, _ = run_cli(["subscribe", "--list", "--location=eu"])
    assert code == 0
    assert "cannot see any listing of maps-platform-analytics-hub in eu" in out


def test_help_has_every_flag() -> None:
    _, out, _ = run_cli(["subscribe", "--help"])
    for name in ("customer_id", "hub_project", "exchange", "listing", "dataset", "list", "dry_run", "project"):
        assert f"--{name}" in out
