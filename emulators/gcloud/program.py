"""The program ``gcloud`` of the local cloud: the commands that imagebeam needs, against the local servers only.

``imagebeam local env`` puts it first on the PATH, so that a developer's own gcloud is never called by accident. It
checks what gcloud and the services check, and prints errors in gcloud's format. Whatever it lacks ends with exit code 1
and "not part of the local cloud".
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from imagebeam.emulators.core.tokens import ACCOUNT, new_token
from imagebeam.emulators.gcloud.arguments import Arguments, GcloudError, Spec, parse_list
from imagebeam.emulators.running import RunningCloud, find_running

_TIMEOUT: Final = 60.0
_SUBSTITUTION: Final = re.compile(r"\$\{?(_[A-Z0-9_]+)\}?")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: State directory, then gcloud's arguments; those of the process when None.

    Returns:
        The exit code: 0, 1 if the command fails, 2 for invalid arguments.
    """
    directory, *arguments = sys.argv[1:] if argv is None else argv
    words = [word for word in arguments if not word.startswith("-")]
    name = next((each for each in _COMMANDS if words[: len(each.split())] == each.split()), None)
    try:
        if name is None:
            return _unknown(arguments)
        spec, run = _COMMANDS[name]
        rest = list(arguments)
        for word in name.split():
            rest.remove(word)
        parsed = spec.parse(rest)
        cloud = find_running(Path(directory))
        if cloud is None:
            raise GcloudError(
                f"the local Google Cloud in {directory} is not running: run imagebeam local up --detach "
                f"--dir={shlex.quote(directory)}"
            )
        project = parsed.one("project", cloud.project)
        if project != cloud.project:
            raise GcloudError(
                f"[{ACCOUNT}] does not have permission to access projects instance [{project}] (or it may not exist): "
                f"The caller does not have permission. The local project is {cloud.project}."
            )
        run(cloud, parsed)
    except GcloudError as error:
        command = ".".join(["gcloud", *(name or "").split()])
        print(f"ERROR: ({command}) {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _unknown(arguments: Sequence[str]) -> int:
    known = "\n".join(f"  gcloud {name}" for name in _COMMANDS)
    if not arguments or arguments[0] in {"--help", "-h", "help", "--version", "version"}:
        print(f"gcloud of the local Google Cloud of imagebeam. It implements:\n{known}")
        return 0
    command = " ".join(arguments[:4])
    raise GcloudError(f"{command}: not part of the local cloud. It implements:\n{known}")


def _submit_build(cloud: RunningCloud, arguments: Arguments) -> None:
    """Check a build as Cloud Build does, and register its images without building them."""
    source = Path(arguments.words[0])
    if not source.is_dir():
        raise GcloudError(f"could not find source [{source}]")
    config_path = Path(arguments.one("config", str(source / "cloudbuild.yaml")))
    try:
        text = config_path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except OSError as error:
        raise GcloudError(f"Unable to read file [{config_path}]: {error}") from None
    except yaml.YAMLError as error:
        raise GcloudError(f"parsing {config_path}: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or not config.get("steps"):
        raise GcloudError("INVALID_ARGUMENT: invalid build: build.steps is empty")
    values = _pairs("substitutions", arguments.one("substitutions", ""))
    names = set(_SUBSTITUTION.findall(text))
    if missing := names - values.keys():
        raise GcloudError(
            f"INVALID_ARGUMENT: invalid value for 'build.substitutions': key in the template {min(missing)!r} is not a "
            "valid built-in substitution"
        )
    if extra := values.keys() - names:
        raise GcloudError(
            f"INVALID_ARGUMENT: invalid value for 'build.substitutions': key {min(extra)!r} in the substitution data "
            "is not matched in the template"
        )
    images = [_SUBSTITUTION.sub(lambda found: values[found[1]], str(image)) for image in config.get("images", ())]
    print(f"Uploading tarball of [{source}] to [gs://{cloud.project}_cloudbuild/source]")
    for image in images:
        _call(cloud, "POST", "/_local/images", {"image": image})
        print(f"PUSH {image} (registered only: the local cloud has no Docker and builds nothing)")
    print("STATUS: SUCCESS")


def _build_template(cloud: RunningCloud, arguments: Arguments) -> None:
    template = arguments.words[0]
    bucket, name = _split(template)
    language = arguments.one("sdk-language")
    if language not in {"GO", "JAVA", "PYTHON", "YAML"}:
        raise GcloudError(f"argument --sdk-language: Invalid choice: {language!r}.", exit_code=2)
    spec: dict[str, Any] = {"image": arguments.one("image"), "sdkInfo": {"language": language}}
    if path := arguments.one("metadata-file", ""):
        try:
            spec["metadata"] = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GcloudError(f"Unable to read file [{path}]: {error}") from None
        if missing := [key for key in ("name", "parameters") if key not in spec["metadata"]]:
            raise GcloudError(f"Invalid template metadata: {' and '.join(missing)} must be specified.")
    _upload(cloud, bucket, name, json.dumps(spec, indent=4).encode(), "application/json")
    print(f"Successfully saved container spec in flex template file.\nTemplate File GCS Location: {template}")


def _run_template(cloud: RunningCloud, arguments: Arguments) -> None:
    region = arguments.one("region")
    parameters: dict[str, str] = {}
    for text in arguments.all("parameters"):
        parameters |= _pairs("parameters", text)
    environment: dict[str, Any] = {_camel(name): arguments.one(name) for name in _ENVIRONMENT if arguments.all(name)}
    for name in ("num-workers", "max-workers"):
        if name in arguments.flags:
            environment[_camel(name)] = _integer(name, arguments.one(name))
    for name in ("additional-experiments", "additional-pipeline-options"):
        if name in arguments.flags:
            environment[_camel(name)] = parse_list(arguments.one(name))
    if "additional-user-labels" in arguments.flags:
        environment["additionalUserLabels"] = _pairs("additional-user-labels", arguments.one("additional-user-labels"))
    if "disable-public-ips" in arguments.flags:
        environment["ipConfiguration"] = "WORKER_IP_PRIVATE"
    launch = {
        "jobName": arguments.words[0],
        "containerSpecGcsPath": arguments.one("template-file-gcs-location"),
        "parameters": parameters,
        "environment": environment,
    }
    path = f"/v1b3/projects/{cloud.project}/locations/{region}/flexTemplates:launch"
    job = _call(cloud, "POST", path, {"launchParameter": launch})["job"]
    print("job:")
    for name in ("createTime", "currentState", "id", "location", "name", "projectId"):
        print(f"  {name}: {job[name]}")
    print("The local cloud queues the job and does not run it: it has no containers.", file=sys.stderr)


def _copy(cloud: RunningCloud, arguments: Arguments) -> None:
    *sources, target = arguments.words
    if not sources:
        raise GcloudError("argument [SOURCE ...] DESTINATION: Must be specified.", exit_code=2)
    for source in sources:
        data = _read(cloud, source)
        name = source.rstrip("/").rpartition("/")[2]
        if target.startswith("gs://"):
            bucket, path = _split(target, may_be_directory=True)
            path = f"{path}{name}" if not path or path.endswith("/") else path
            _upload(cloud, bucket, path, data, "application/octet-stream")
        else:
            place = Path(target)
            (place / name if place.is_dir() else place).write_bytes(data)
        print(f"Copying {source if source.startswith('gs://') else f'file://{source}'} to {target}", file=sys.stderr)


def _list(cloud: RunningCloud, arguments: Arguments) -> None:
    if not arguments.words:
        found = _call(cloud, "GET", f"/storage/v1/b?project={cloud.project}")
        for bucket in found.get("items", ()):
            print(f"gs://{bucket['name']}/")
        return
    bucket, prefix = _split(arguments.words[0], may_be_directory=True)
    query = urllib.parse.urlencode({"prefix": prefix, "delimiter": "/"})
    found = _call(cloud, "GET", f"/storage/v1/b/{bucket}/o?{query}")
    names = [*(item["name"] for item in found.get("items", ())), *found.get("prefixes", ())]
    if not names and prefix:
        raise GcloudError("One or more URLs matched no objects.")
    print("\n".join(f"gs://{bucket}/{name}" for name in names))


def _create_bucket(cloud: RunningCloud, arguments: Arguments) -> None:
    for url in arguments.words:
        bucket, _ = _split(url, may_be_directory=True)
        body = {"name": bucket, "location": arguments.one("location", "US").upper()}
        print(f"Creating gs://{bucket}/...", file=sys.stderr)
        _call(cloud, "POST", f"/storage/v1/b?project={cloud.project}", body)


def _print_token(_: RunningCloud, __: Arguments) -> None:
    print(new_token())


def _print_project(cloud: RunningCloud, _: Arguments) -> None:
    print(cloud.project)


def _log_in(_: RunningCloud, __: Arguments) -> None:
    print(f"The local Google Cloud needs no login: you are {ACCOUNT}.", file=sys.stderr)


# Steps


def _call(cloud: RunningCloud, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    return json.loads(_send(cloud, method, path, data, "application/json") or b"{}")


def _send(cloud: RunningCloud, method: str, path: str, data: bytes | None, content_type: str) -> bytes:
    """Send a request to the local cloud.

    Raises:
        GcloudError: An error response, worded as gcloud words it.
    """
    headers = {"Authorization": f"Bearer {new_token()}", "Content-Type": content_type}
    request = urllib.request.Request(f"{cloud.url}{path}", data=data, headers=headers, method=method)  # noqa: S310
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=_TIMEOUT) as response:
            content: bytes = response.read()
    except urllib.error.HTTPError as problem:
        with problem:
            error = json.loads(problem.read())["error"]
        what = f"HTTPError {problem.code}" if "/storage/" in path else error["status"]
        raise GcloudError(f"{what}: {error['message']}") from None
    except OSError as problem:
        raise GcloudError(f"There was a problem refreshing your current auth tokens: {problem}") from None
    return content


def _read(cloud: RunningCloud, source: str) -> bytes:
    if not source.startswith("gs://"):
        try:
            return Path(source).read_bytes()
        except OSError:
            raise GcloudError(f"The following URLs matched no objects or files:\n{source}") from None
    bucket, name = _split(source)
    path = f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}?alt=media"
    return _send(cloud, "GET", path, None, "application/json")


def _upload(cloud: RunningCloud, bucket: str, name: str, data: bytes, content_type: str) -> None:
    query = urllib.parse.urlencode({"uploadType": "media", "name": name})
    _send(cloud, "POST", f"/upload/storage/v1/b/{bucket}/o?{query}", data, content_type)


def _split(url: str, *, may_be_directory: bool = False) -> tuple[str, str]:
    """Return the bucket and the object name of a ``gs://`` URL."""
    bucket, _, name = url.removeprefix("gs://").partition("/")
    if not url.startswith("gs://") or not bucket or not (name or may_be_directory):
        raise GcloudError(f"Invalid Cloud Storage URL: {url}. It must have the form gs://BUCKET/OBJECT.")
    return bucket, name


def _pairs(flag: str, text: str) -> dict[str, str]:
    """Return the value of a flag of the form ``KEY=VALUE,...``."""
    found = {}
    for part in parse_list(text) if text else ():
        name, equals, value = part.partition("=")
        if not equals:
            raise GcloudError(
                f"argument --{flag}: Bad syntax for dict arg: [{part}]. Please see `gcloud topic flags-file` or "
                "`gcloud topic escaping` for information on providing list or dictionary flag values with special "
                "characters.",
                exit_code=2,
            )
        found[name] = value
    return found


def _integer(flag: str, text: str) -> int:
    if not text.isdecimal():
        raise GcloudError(f"argument --{flag}: invalid int value: {text!r}", exit_code=2)
    return int(text)


def _camel(name: str) -> str:
    """Return the name of a field of the API.

    >>> _camel("worker-machine-type"), _camel("dataflow-kms-key")
    ('machineType', 'kmsKeyName')
    """
    special = {"worker-machine-type": "machineType", "dataflow-kms-key": "kmsKeyName"}
    first, *rest = name.split("-")
    return special.get(name, first + "".join(word.capitalize() for word in rest))


#: Flags of a launch that are fields of its environment, as text.
_ENVIRONMENT: Final = (
    *("temp-location", "staging-location", "worker-machine-type", "worker-region", "worker-zone", "network"),
    *("subnetwork", "service-account-email", "dataflow-kms-key", "flexrs-goal"),
)
_COMMANDS: Final[Mapping[str, tuple[Spec, Callable[[RunningCloud, Arguments], None]]]] = {
    "builds submit": (Spec(words=(1, 1), flags=("config", "substitutions", "region", "tag")), _submit_build),
    "dataflow flex-template build": (
        Spec(words=(1, 1), flags=("metadata-file",), required=("image", "sdk-language"), word="TEMPLATE_FILE_GCS_PATH"),
        _build_template,
    ),
    "dataflow flex-template run": (
        Spec(
            words=(1, 1),
            word="JOB_NAME",
            required=("template-file-gcs-location", "region"),
            flags=(
                *(*_ENVIRONMENT, "num-workers", "max-workers", "parameters"),
                *("additional-experiments", "additional-pipeline-options", "additional-user-labels"),
            ),
            switches=("disable-public-ips",),
        ),
        _run_template,
    ),
    "storage cp": (Spec(words=(2, 100), word="SOURCE DESTINATION"), _copy),
    "storage ls": (Spec(words=(0, 1), word="PATH"), _list),
    "storage buckets create": (
        Spec(words=(1, 10), flags=("location", "default-storage-class"), word="URL"),
        _create_bucket,
    ),
    "auth application-default login": (Spec(), _log_in),
    "auth application-default print-access-token": (Spec(), _print_token),
    "auth login": (Spec(), _log_in),
    "auth print-access-token": (Spec(), _print_token),
    "config get-value project": (Spec(), _print_project),
    "config get project": (Spec(), _print_project),
}


if __name__ == "__main__":
    sys.exit(main())
