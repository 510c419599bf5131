"""``imagebeam batch run``: create one job on an input that the user already has, and follow it to its end."""

from __future__ import annotations

from imagebeam.pipeline.batch.follow import follow
from imagebeam.pipeline.batch_input import checks, state
from imagebeam.pipeline.batch_input.settings import InputSettings
from imagebeam.pipeline.batch_input.state import InputRun
from imagebeam.pipeline.batch_input.supervisor import FollowedInput
from imagebeam.pipeline.console import report
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.run.draining import draining_on_signals
from imagebeam.transforms.clients import storage, tuned_models
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane, utc_now


def run(settings: InputSettings) -> int:
    """Create the job, or continue with it, and wait for its end.

    Returns:
        The exit code of :func:`~imagebeam.pipeline.batch_input.results.exit_code`; 0 without waiting.

    Raises:
        UserError: Input, output or model cannot be used, and nothing was created.
        SystemicError: A service is not available.
    """
    console = Console(json=settings.as_json)
    input_run = open_run(settings, console)
    again = f"imagebeam batch collect --work_dir={settings.work_dir} --run_id={input_run.run_id}"
    try:
        with draining_on_signals(lambda _reason: None):  # the job continues without this process
            code = follow(
                [FollowedInput(input_run)],
                console,
                poll_s=settings.poll_s,
                wait=settings.wait,
                as_json=settings.as_json,
            )
    except UserError as error:
        if not state.has_intent(input_run):  # the service rejects the job: do not leave the run open
            state.delete_run(input_run)
            raise error.__cause__ or error from None
        raise
    except KeyboardInterrupt:
        console.status(f"\nthe job continues; wait again with `{again}`")
        return report.STOP_CODES["interrupted"]
    if code is None:
        console.status(f"submitted; `{again}` completes the run")
    return code or 0


def open_run(settings: InputSettings, console: Console) -> InputRun:
    """Return the run that the settings continue, or a new one after its checks.

    Raises:
        UserError: Input, output or model cannot be used.
    """
    if settings.run_id is not None:
        if (found := state.load_run(settings.work_dir, settings.run_id)) is not None:
            return _continued(found, console)
        return _new_run(settings, settings.run_id, checks.read_input(settings))
    given = checks.read_input(settings)
    derived = state.derive_run_id(
        settings.project,
        settings.location,
        settings.model.name,
        settings.source,
        given.version,
        settings.destination,
        settings.display_name,
    )
    found, name = state.find_attempt(settings.work_dir, derived)
    return _continued(found, console) if found is not None else _new_run(settings, name, given)


def _continued(run: InputRun, console: Console) -> InputRun:
    console.status(f"run {run.run_id} exists: its job is not created again; another --run_id starts a new run")
    return run


def _new_run(settings: InputSettings, run_id: str, given: checks.Input) -> InputRun:
    """Check the settings, and write the run file."""
    location = checks.resolve_location(settings, given)
    profile = checks.find_profile(settings)
    storage.check_writable(settings.work_dir)
    run = InputRun(
        run_id=run_id,
        directory=state.run_directory(settings.work_dir, run_id),
        project=settings.project,
        location=location,
        model=settings.model.name,
        job_model=tuned_models.resolve_job_model(settings.model),
        source=settings.source,
        destination=settings.destination,
        display_name=settings.display_name or f"imagebeam-{run_id}",
        created_at=utc_now(),
        grace_s=settings.grace_s,
        price=profile.prices.get(Lane.BATCH),
    )
    state.save_run(run)
    return run
