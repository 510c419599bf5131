"""``imagebeam local``: start, query and demonstrate a local Google Cloud."""

import argparse
import contextlib
import difflib
import importlib.util
import json
import os
import shlex
import shutil
import signal
import sys
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from imagebeam.emulators.bigquery.result_text import FORMATS, render
from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.environment import find_conflict
from imagebeam.transforms.core.errors import ExitCode, ImagebeamError, UserError

#: Default state directory.
DIRECTORY: Final = Path(".local")
#: Required modules of the extra ``[local]``.
REQUIRED_MODULES: Final = ("duckdb", "sqlglot", "numpy")

_NEXT = """\
Paste these lines into another terminal, then try:
  imagebeam classify --source={source} --results=answers --task=image_quality --work_dir={runs}
  imagebeam local sql 'SELECT * FROM answers.image_quality LIMIT 5' --dir={directory}
Ctrl-C stops it. Its tables and files stay in {directory}."""
_SOURCE = "imagery_insights___us.latest_observations"


def main(argv: list[str] | None = None) -> int:
    """Run ``imagebeam local``.

    Args:
        argv: Arguments after ``local``; those of the process when None.

    Returns:
        The exit code: 0, 2 for invalid input, 1 if the local cloud fails.
    """
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        missing = [name for name in REQUIRED_MODULES if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"imagebeam local requires {', '.join(missing)}: run pip install 'imagebeam[local]'")
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except ImagebeamError as problem:
        return _print_error(str(problem), problem.exit_code)
    except RuntimeError as problem:
        return _print_error(str(problem), ExitCode.FAILED)


def _up(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.dir
    conflict = None if arguments.force else find_conflict(os.environ, directory, Path.home())
    if conflict is not None:
        raise UserError(f"the local cloud does not start next to real credentials: {conflict}")
    fresh = not directory.exists() or not any(directory.iterdir())
    if not fresh and not (directory / "credentials.json").exists():
        raise UserError(f"{directory} is not empty and does not contain a local cloud: choose another --dir")
    _check_not_running(directory)
    (directory / ".imagebeam-demo").unlink(missing_ok=True)  # so that a demo does not delete it
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell ignores SIGINT in background processes
        signal.signal(number, _interrupt)
    try:
        with LocalCloud(directory, seed=arguments.seed, port=arguments.port) as cloud:
            if fresh:
                _load_sample_data(cloud, arguments.seed)
                fresh = False
            _print_instructions(cloud, directory)
            cloud.wait()
    except KeyboardInterrupt:
        state = f"{directory} was removed" if fresh else f"{directory} is kept"
        print(f"\nThe local Google Cloud has stopped; {state}.")
    except OSError as problem:
        raise UserError(f"cannot use {directory}: {problem.strerror}; choose another --dir") from problem
    finally:
        if fresh:  # do not leave an incomplete sample dataset
            shutil.rmtree(directory, ignore_errors=True)
    return 0


def _load_sample_data(cloud: LocalCloud, seed: int) -> None:
    from imagebeam.emulators.sample_data.load import build_dataset

    print("Creating a sample dataset with 300 observations ...", flush=True)
    build_dataset(cloud.url, cloud.project, seed=seed)


def _print_instructions(cloud: LocalCloud, directory: Path) -> None:
    print(f"The local Google Cloud is running at {cloud.url}; its tables and files are in {directory}.\n")
    for name, value in cloud.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    runs = shlex.quote(str(directory / "runs"))
    print("\n" + _NEXT.format(source=_SOURCE, runs=runs, directory=shlex.quote(str(directory))), flush=True)


def _sql(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.dir
    database = directory / "bigquery.duckdb"
    url = running_url(directory)
    if url is None and not database.exists():
        raise UserError(f"no local cloud in {directory}: run imagebeam local up --dir={directory}")
    if url is not None:
        columns, rows = _query_server(url, arguments.query)
    else:
        from imagebeam.emulators.bigquery.offline_query import query_database
        from imagebeam.emulators.core.tokens import PROJECT

        columns, rows = query_database(database, PROJECT, arguments.query)
    sys.stdout.write(render(columns, rows, arguments.format))
    return 0


def _query_server(url: str, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    from imagebeam.emulators.core.tokens import PROJECT

    client = bigquery.Client(
        project=PROJECT,
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": url},
    )
    try:
        result = client.query_and_wait(query)
        return [field.name for field in result.schema], [tuple(row.values()) for row in result]
    except GoogleAPICallError as problem:
        message = problem.errors[0].get("message") if problem.errors else None
        raise UserError(f"the query failed: {message or problem.message}") from problem


def _demo(arguments: argparse.Namespace) -> int:
    _check_not_running(arguments.dir)
    from imagebeam.emulators import demo

    return demo.main(arguments.dir, seed=arguments.seed)


def running_url(directory: Path) -> str | None:
    """Return the URL of the local cloud that runs in a directory, or None."""
    try:
        url = str(json.loads((directory / "local.json").read_bytes())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError), direct.open(f"{url}/_local/counters", timeout=5):
        return url
    return None


def _check_not_running(directory: Path) -> None:
    url = running_url(directory)
    if url is not None:
        raise UserError(f"a local cloud is already running in {directory}, at {url}: use or stop it")


class _Parser(argparse.ArgumentParser):
    """Raises errors instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="imagebeam local", description="Start, query and demonstrate a local Google Cloud.", allow_abbrev=False
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def add_command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    up = add_command("up", "Start a local cloud. The first start loads the sample dataset.")
    up.add_argument("--port", type=_port, default=0, help="port on 127.0.0.1 (default: a free one)")
    up.add_argument("--force", action="store_true", help="start even if real credentials are present")
    up.set_defaults(run=_up)
    sql = add_command("sql", "Query the tables of the local cloud, also while it is stopped.")
    sql.add_argument("query", help="GoogleSQL statement, in quotes")
    sql.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: %(default)s")
    sql.set_defaults(run=_sql)
    demo = add_command("demo", "Run the pipeline three times on a local cloud.")
    demo.set_defaults(run=_demo)
    for command in (up, demo):
        command.add_argument("--seed", type=_seed, default=0, help="random seed (default: 0)")
    for command in (up, sql, demo):
        command.add_argument("--dir", type=Path, default=DIRECTORY, help="state directory (default: %(default)s)")
    if argv and not argv[0].startswith("-") and argv[0] not in commands.choices:
        known = list(commands.choices)
        raise UserError(f"unknown command local {argv[0]}{_suggestion(argv[0], known)}: use {', '.join(known)}")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        chosen = commands.choices[argv[0]]
        flags = [flag for flag in chosen._option_string_actions if flag.startswith("--")]
        flag = unknown[0].partition("=")[0]
        if not flag.startswith("-"):
            raise UserError(f"unexpected argument {flag!r}: put the SQL statement in quotes")
        raise UserError(f"unknown flag {flag}{_suggestion(flag, flags)}; imagebeam local {argv[0]} --help")
    return arguments


def _suggestion(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"invalid port {text!r} (0 to 65535)")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"invalid seed {text!r} (an integer ≥ 0)")
    return int(text)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _print_error(text: str, code: int) -> int:
    sys.stderr.write(f"imagebeam: {' '.join(text.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
