"""What the ``imagebeam local`` commands do: start, stop and query a local Google Cloud."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from imagebeam.emulators.bigquery.result_text import render
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.environment import find_conflict
from imagebeam.emulators.running import STOP_LIMIT, RunningCloud, find_running
from imagebeam.transforms.core.errors import UserError

#: Default state directory.
DIRECTORY: Final = Path(".local")
#: Log of a server in the background, in the state directory.
LOG: Final = "local.log"

_SOURCE = "imagery_insights___us.latest_observations"


def up(directory: Path, *, port: int = 0, seed: int = 0, force: bool = False, detach: bool = False) -> int:
    """Start a local cloud, load the sample dataset if the directory is new, and wait until it stops.

    Args:
        directory: State directory.
        port: Port on 127.0.0.1; 0 for a free one.
        seed: Random seed.
        force: Whether to start next to real credentials.
        detach: Whether to return when it is ready, and leave it running.

    Raises:
        UserError: Real credentials, a foreign or running directory, or one that cannot be used.
    """
    conflict = None if force else find_conflict(os.environ, directory, Path.home())
    if conflict is not None:
        raise UserError(f"the local cloud does not start next to real credentials: {conflict}")
    fresh = not directory.exists() or not any(directory.iterdir())
    if not fresh and not (directory / "credentials.json").exists():
        raise UserError(f"{directory} is not empty and does not contain a local cloud: choose another --dir")
    check_not_running(directory)
    (directory / ".imagebeam-demo").unlink(missing_ok=True)  # so that a demo does not delete it
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell ignores SIGINT in background processes
        signal.signal(number, _interrupt)
    print("Starting a local Google Cloud ...", flush=True)
    log = directory / LOG if detach else None
    incomplete, cloud = fresh, None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        cloud = LocalCloud(directory, seed=seed, port=port, log=log)
        cloud.start()
        if fresh:
            _load_sample_data(cloud, seed)
            incomplete = False
        _print_instructions(cloud, directory, log)
        if detach:
            cloud = None  # it keeps running
            return 0
        cloud.wait()
        print(f"\nThe local Google Cloud was stopped by imagebeam local down; {directory} is kept.")
    except KeyboardInterrupt:
        state = f"{directory} was removed" if incomplete else f"{directory} is kept"
        print(f"\nThe local Google Cloud has stopped; {state}.")
    except OSError as problem:
        raise UserError(f"cannot use {directory}: {problem.strerror}; choose another --dir") from problem
    finally:
        if cloud is not None:
            cloud.stop()
        if incomplete:  # do not leave an incomplete sample dataset
            shutil.rmtree(directory, ignore_errors=True)
    return 0


def print_environment(directory: Path) -> int:
    """Print the environment variables of a running local cloud as shell commands.

    Raises:
        UserError: None is running.
    """
    for name, value in _require_running(directory).environment.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def down(directory: Path) -> int:
    """Stop the local cloud of a directory, whether in the background or in another terminal. Its state is kept.

    Raises:
        UserError: None is running.
        RuntimeError: It does not exit.
    """
    running = _require_running(directory)
    print(f"Stopping the local Google Cloud at {running.url} ...", flush=True)
    if not running.stop(lambda seconds: print(f"... {seconds:.0f} s", flush=True)):
        raise RuntimeError(f"the local cloud in {directory} has not stopped within {STOP_LIMIT:.0f} s")
    print(f"The local Google Cloud has stopped; {directory} is kept.")
    return 0


def sql(directory: Path, query: str, form: str) -> int:
    """Query the tables of a local cloud and print the rows.

    Raises:
        UserError: There is no local cloud in the directory, or the query fails.
    """
    database = directory / "bigquery.duckdb"
    running = find_running(directory)
    if running is None and not database.exists():
        raise UserError(f"no local cloud in {directory}: run imagebeam local up --dir={directory}")
    if running is not None:
        columns, rows = _query_server(running, query)
    else:
        from imagebeam.emulators.bigquery.offline_query import query_database
        from imagebeam.emulators.core.tokens import PROJECT

        columns, rows = query_database(database, PROJECT, query)
    sys.stdout.write(render(columns, rows, form))
    return 0


def demo(directory: Path, *, seed: int) -> int:
    """Run the demo; see :mod:`imagebeam.emulators.demo`."""
    check_not_running(directory)
    from imagebeam.emulators import demo

    return demo.main(directory, seed=seed)


def check_not_running(directory: Path) -> None:
    """Check that no local cloud runs in a directory.

    Raises:
        UserError: One is running.
    """
    running = find_running(directory)
    if running is not None:
        raise UserError(
            f"a local cloud is already running in {directory}, at {running.url}: use it with "
            f'eval "$({_local("env", directory)})", or stop it with {_local("down", directory)}'
        )


def _require_running(directory: Path) -> RunningCloud:
    running = find_running(directory)
    if running is None:
        raise UserError(f"no local cloud is running in {directory}: run {_local('up --detach', directory)}")
    return running


def _local(command: str, directory: Path) -> str:
    """Return a command line, with the directory if it is not the default."""
    where = "" if directory == DIRECTORY else f" --dir={shlex.quote(str(directory))}"
    return f"imagebeam local {command}{where}"


def _load_sample_data(cloud: LocalCloud, seed: int) -> None:
    from imagebeam.emulators.sample_data.load import build_dataset

    print("Creating a sample dataset with 300 observations ...", flush=True)
    build_dataset(cloud.url, cloud.project, seed=seed)


def _print_instructions(cloud: LocalCloud, directory: Path, log: Path | None) -> None:
    runs = shlex.quote(str(directory / "runs"))
    end = f"`{_local('down', directory)}` stops it; its log is {log}." if log else "Ctrl-C stops it."
    print(
        f"The local Google Cloud is running at {cloud.url}; its tables and files are in {directory}.\n\n"
        f"Use it in {'this' if log else 'another'} shell:\n"
        f'  eval "$({_local("env", directory)})"\n'
        f"  imagebeam classify --source={_SOURCE} --results=answers --task=image_quality --work_dir={runs}\n"
        f"  {_local('sql', directory)} 'SELECT * FROM answers.image_quality LIMIT 5'\n"
        f"{end} Tables and files stay in {directory}.",
        flush=True,
    )


def _query_server(running: RunningCloud, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    client = bigquery.Client(
        project=running.project,
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": running.url},
    )
    try:
        result = client.query_and_wait(query)
        return [field.name for field in result.schema], [tuple(row.values()) for row in result]
    except GoogleAPICallError as problem:
        message = problem.errors[0].get("message") if problem.errors else None
        raise UserError(f"the query failed: {message or problem.message}") from problem


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
