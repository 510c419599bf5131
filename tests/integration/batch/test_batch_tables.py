"""Tables of batch jobs in another dataset than the results: sources in a multi-region, such as Imagery Insights."""

from __future__ import annotations

import json

import pytest
from google.cloud import bigquery
from support.batch_runs import answers, batch, batch_arguments, command, created, fault, work_dir
from support.jobs import Job, make_job, run_cli

from imagebeam.emulators.cloud import LocalCloud

REGION = "us-central1"
TABLES = (
    f"--location={REGION}",
    "--model=gemini-2.5-flash",
    "--batch_source=bigquery",
    "--batch_destination=bigquery",
)


@pytest.fixture(scope="module")
def wide(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A source in the multi-region US, and an empty dataset in a region."""
    job = make_job(cloud, tmp_path_factory.mktemp("wide"), 3)
    dataset = bigquery.Dataset(f"{cloud.project}.{job.name}_region")
    dataset.location = REGION
    bigquery.Client().create_dataset(dataset)
    return job


def tables(dataset: str) -> dict[str, bigquery.Table]:
    client = bigquery.Client()
    return {item.table_id: client.get_table(item.reference) for item in client.list_tables(dataset)}


@pytest.mark.long
def test_tables_of_jobs_are_in_the_dataset_of_their_region(wide: Job) -> None:
    name = "answers_of_may"
    flags = (*TABLES, f"--batch_dataset={wide.name}_region", f"--batch_output_table={name}", "--batch_lines=2")
    fault(wide, {"match": "*-r1-*0-0", "failed": 1.0})
    summary = batch(wide, *flags, "--display_name=monday poles")
    assert (summary["exit_code"], summary["problems"], summary["counted"]["ok"]) == (0, [], 3), summary["err"]
    assert "warning: --work_dir is in us, and BigQuery loads requests into a dataset in us-central1" in summary["err"]
    assert [row["status"] for row in answers(wide)] == ["OK"] * 3
    assert not [table for table in tables(wide.results) if table.startswith("batch_")]
    found = tables(f"{wide.name}_region")
    named = {table for table in found if table.startswith(name)}
    assert named == {name, f"{name}_r1_0000000002_0", f"{name}_r2_0000000000_0"}
    assert [found[table].num_rows for table in sorted(named)] == [2, 1, 2]
    assert {found[table].expires for table in named} == {None}, "a table that the user named stays"
    others = [found[table].expires for table in found.keys() - named]
    assert (len(others), None in others) == (3, False), "tables of requests expire"
    starts = {each["displayName"].partition(summary["run_id"])[0] for each in wide.cloud.batch_jobs()}
    assert starts == {"monday poles-"}
    code, out, err = run_cli(batch_arguments(wide, *flags))
    assert (code, out) == (2, ""), err
    assert "has 2 rows already; use a new name" in err


@pytest.mark.long
def test_finds_the_jobs_of_a_display_name_again(wide: Job) -> None:
    job = Job(wide.cloud, wide.name, wide.directory, wide.rows, own_results=f"{wide.name}_named")
    fault(job, {"stuck": "PENDING"}, calls=[{"do": "lost_answer", "times": 1}])
    code, _, err = run_cli(batch_arguments(job, "--display_name=my.jobs", "--no_wait"))
    assert code == 0, err
    code, out, _ = command(job, "status", "--json")
    (status,) = json.loads(out)
    (one,) = status["jobs"]
    assert (code, one["job"]) == (0, job.cloud.batch_jobs()[0]["name"])
    assert one["output"].startswith(f"{work_dir(job)}/runs/{status['run_id']}/batch/r1/")
    assert one["job"] in command(job, "status")[1]
    fault(job)
    code, out, _ = command(job, "collect")
    assert (code, "3 OK" in out) == (0, True)
    assert created(job) == {"r1-0000000000-0": 1}
    listed = {each["run_id"]: each for each in json.loads(command(job, "list", "--json")[1])}
    assert (listed[status["run_id"]]["kind"], listed[status["run_id"]]["state"]) == ("image_quality", "ended")
    assert listed[status["run_id"]]["rows"] == 3
    assert "deleted 1 jobs" in command(job, "delete", f"--run_id={status['run_id']}")[1]
    assert job.cloud.batch_jobs() == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (TABLES, f"bq mk --location={REGION}"),
        ((*TABLES, "--batch_dataset=no_such_dataset"), "does not exist, or you cannot access it; create it with"),
        ((*TABLES, "--batch_dataset={name}"), "is in US, the model at us-central1"),
        (("--batch_dataset={name}",), "--batch_dataset is for --batch_source=bigquery"),
        (("--batch_output_table=x",), "--batch_output_table is for --batch_destination=bigquery"),
        (("--batch_source=bigquery", "--location=global"), "use --location=REGION with a --batch_dataset there"),
        (("--display_name=a*b",), "1 to 40 letters"),
    ],
)
def test_rejects_tables_that_jobs_cannot_use(wide: Job, flags: tuple[str, ...], message: str) -> None:
    code, out, err = run_cli(batch_arguments(wide, *(flag.format(name=wide.name) for flag in flags)))
    assert (code, out) == (2, ""), err
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("imagebeam: ")]) == 1
    assert created(wide) == {}


def test_the_local_cloud_refuses_to_query_tables_of_two_regions(wide: Job) -> None:
    client = bigquery.Client()
    fields = [bigquery.SchemaField("id", "STRING")]
    client.create_table(bigquery.Table(f"{client.project}.{wide.name}_region.other", schema=fields))
    with pytest.raises(Exception, match="was not found in location"):
        wide.query(f"SELECT 1 FROM {wide.source}, {wide.name}_region.other")
