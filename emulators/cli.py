"""``imagebeam local up|sql|demo``: the local Google Cloud for people."""

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
from imagebeam.emulators.environment import objection
from imagebeam.transforms.core.errors import ImagebeamError, UserError

#: Where a local cloud lives when nobody says otherwise.
DIRECTORY: Final = Path(".local")
#: Modules of the extra ``[local]`` without which nothing works.
NEEDED: Final = ("duckdb", "sqlglot", "numpy")

_NEXT = """\
Paste these lines into another terminal, then try there:
  imagebeam classify --source={source} --results=answers --task=image_quality --work_dir={runs}
  imagebeam local sql 'SELECT * FROM answers.image_quality LIMIT 5' --dir={directory}
Ctrl-C ends it. Its tables and files stay in {directory}."""
_SOURCE = "imagery_insights___us.latest_observations"


def main(argv: list[str] | None = None) -> int:
    """Run ``imagebeam local``.

    Args:
        argv: Arguments after ``local``; those of the process when None.

    Returns:
        The exit code: 0, 2 for a person's mistake, 1 when the local cloud fails.
    """
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"imagebeam local needs the module {', '.join(missing)}: pip install 'imagebeam[local]'")
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except ImagebeamError as problem:
        return _complain(str(problem), problem.exit_code)
    except RuntimeError as problem:
        return _complain(str(problem), 1)


def _up(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.dir
    said = None if arguments.force else objection(os.environ, directory, Path.home())
    if said is not None:
        raise UserError(f"the local cloud does not start beside real credentials: {said}")
    fresh = not directory.exists() or not any(directory.iterdir())
    if not fresh and not (directory / "credentials.json").exists():
        raise UserError(f"{directory} is not empty and no local cloud made it: name another --dir")
    _refuse_running(directory)
    (directory / ".imagebeam-demo").unlink(missing_ok=True)  # from now on a demo must not empty it
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell that starts it in the background ignores SIGINT
        signal.signal(number, _interrupt)
    try:
        with LocalCloud(directory, seed=arguments.seed, port=arguments.port) as cloud:
            if fresh:
                _fill(cloud, arguments.seed)
                fresh = False
            _tell(cloud, directory)
            cloud.wait()
    except KeyboardInterrupt:
        kept = f"{directory} is gone again" if fresh else f"{directory} keeps what it held"
        print(f"\nThe local Google Cloud is down; {kept}.")
    except OSError as problem:
        raise UserError(f"{directory} cannot be used: {problem.strerror}; name another --dir") from problem
    finally:
        if fresh:  # a sample dataset that was not finished would look like one
            shutil.rmtree(directory, ignore_errors=True)
    return 0


def _fill(cloud: LocalCloud, seed: int) -> None:
    from imagebeam.emulators.sample_data.load import build_dataset

    print("Making a sample dataset: 300 observations of real photographs ...", flush=True)
    build_dataset(cloud.url, cloud.project, seed=seed)


def _tell(cloud: LocalCloud, directory: Path) -> None:
    print(f"The local Google Cloud is up at {cloud.url}; its tables and files are in {directory}.\n")
    for name, value in cloud.environment.items():
        print(f"export {name}={shlex.quote(value)}")
    runs = shlex.quote(str(directory / "runs"))
    print("\n" + _NEXT.format(source=_SOURCE, runs=runs, directory=shlex.quote(str(directory))), flush=True)


def _sql(arguments: argparse.Namespace) -> int:
    directory: Path = arguments.dir
    database = directory / "bigquery.duckdb"
    url = running_url(directory)
    if url is None and not database.exists():
        raise UserError(f"there is no local cloud in {directory}: imagebeam local up --dir={directory}")
    if url is not None:
        columns, rows = _ask_server(url, arguments.query)
    else:
        from imagebeam.emulators.bigquery.offline_query import query_database
        from imagebeam.emulators.core.tokens import PROJECT

        columns, rows = query_database(database, PROJECT, arguments.query)
    sys.stdout.write(render(columns, rows, arguments.format))
    return 0


def _ask_server(url: str, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
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
        said = problem.errors[0].get("message") if problem.errors else None
        raise UserError(f"the query failed: {said or problem.message}") from problem


def _demo(arguments: argparse.Namespace) -> int:
    _refuse_running(arguments.dir)
    from imagebeam.emulators import demo

    return demo.main(arguments.dir, seed=arguments.seed)


def running_url(directory: Path) -> str | None:
    """Return the address of the local cloud that is up in a directory, if one is."""
    try:
        url = str(json.loads((directory / "local.json").read_bytes())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError), direct.open(f"{url}/_local/counters", timeout=5):
        return url
    return None


def _refuse_running(directory: Path) -> None:
    url = running_url(directory)
    if url is not None:
        raise UserError(f"a local cloud is already up in {directory}, at {url}: use it, or end it first")


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing usage and ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="imagebeam local", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    up = commands.add_parser("up", help="start it, with a sample dataset the first time", allow_abbrev=False)
    up.add_argument("--port", type=_port, default=0, help="port on 127.0.0.1 (default: any free one)")
    up.add_argument("--force", action="store_true", help="start although real credentials are around")
    up.set_defaults(run=_up)
    sql = commands.add_parser("sql", help="query its tables, also when it is down", allow_abbrev=False)
    sql.add_argument("query", help="GoogleSQL, in quotes")
    sql.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: %(default)s")
    sql.set_defaults(run=_sql)
    demo = commands.add_parser("demo", help="the real job, three times, nothing asked of Google", allow_abbrev=False)
    demo.set_defaults(run=_demo)
    for command in (up, demo):
        command.add_argument("--seed", type=_seed, default=0, help="of all that is random (default 0)")
    for command in (up, sql, demo):
        command.add_argument("--dir", type=Path, default=DIRECTORY, help="where it lives (%(default)s)")
    if argv and not argv[0].startswith("-") and argv[0] not in commands.choices:
        known = list(commands.choices)
        raise UserError(f"unknown command local {argv[0]}{_near(argv[0], known)}: use {', '.join(known)}")
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        chosen = commands.choices[argv[0]]
        flags = [flag for flag in chosen._option_string_actions if flag.startswith("--")]
        flag = unknown[0].partition("=")[0]
        if not flag.startswith("-"):
            raise UserError(f"{flag!r} is one argument too many: put the SQL in quotes")
        raise UserError(f"unknown flag {flag}{_near(flag, flags)}; imagebeam local {argv[0]} --help")
    return arguments


def _near(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port (0 to 65535)")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no seed (a whole number from 0)")
    return int(text)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"imagebeam: {' '.join(text.split())}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
