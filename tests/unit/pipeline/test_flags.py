"""Flags: the table itself, reading values, reading a command line."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.pipeline.flags import beam as beam_flags
from imagebeam.pipeline.flags import values as flag_values
from imagebeam.pipeline.flags.classify import CLASSIFY
from imagebeam.pipeline.flags.command import FlagCommand
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.setting import Kind, Setting
from imagebeam.transforms.core.errors import UserError

FLAGS = list(CLASSIFY.values())


def read(*argv: str) -> FlagValues:
    return FlagCommand("imagebeam classify", CLASSIFY, beam=True).parse(argv)


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        read(*argv)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_every_flag_has_help_and_a_valid_example(flag: Setting) -> None:
    assert flag.help.endswith(".")
    assert flag.name == flag.name.lower().replace("-", "_")
    value = flag_values.read(flag, flag.example, where=flag.name)
    assert value is not None
    assert bool(flag.pattern) == bool(flag.form), "a pattern needs words for a person"


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_defaults_round_trip_as_text(flag: Setting) -> None:
    if flag.default not in (None, (), {}):
        text = flag_values.to_text(flag, flag.default)
        assert flag_values.read(flag, text, where=flag.name) == flag.default


def test_every_flag_has_a_metavar() -> None:
    for flag in FLAGS:
        assert flag.kind is Kind.BOOLEAN or flag.metavar or flag.choices, flag.name
        assert flag.metavar not in {"TEXT", "VALUE"}


def test_only_declared_flags_share_a_name_with_a_beam_option() -> None:
    shared = {flag.name for flag in FLAGS if beam_flags.is_known(flag.name) or flag.name == "runner"}
    assert shared == {flag.name for flag in FLAGS if flag.to_beam}


def test_accepts_values_with_equals_sign_or_space() -> None:
    assert read("--task=describe", "--limit", "10").given == {"task": "describe", "limit": 10}


def test_accepts_dashes_for_underscores() -> None:
    assert read("--sample-percent=5").given == {"sample_percent": 5.0}


def test_accepts_booleans_with_and_without_value() -> None:
    assert read("--yes", "--json=false", "--quiet", "true").given == {
        "yes": True,
        "json": False,
        "quiet": True,
    }


def test_boolean_does_not_consume_the_next_flag() -> None:
    assert read("--yes", "--limit=1").given == {"yes": True, "limit": 1}


def test_accepts_negative_coordinates() -> None:
    assert read("--bbox", "-122.5,37.7,-122.3,37.8").given["bbox"] == (-122.5, 37.7, -122.3, 37.8)


def test_joins_repeated_lists() -> None:
    assert read("--asset_types=A,B", "--asset_types=C,A").given["asset_types"] == ("A", "B", "C")


def test_uses_the_last_value_of_a_flag() -> None:
    assert read("--limit=1", "--limit=2").given["limit"] == 2


def test_replaces_repeated_due() -> None:
    assert read("--due=new", "--due=failed:NOT_FOUND").given["due"] == ("failed:NOT_FOUND",)


def test_joins_column_pairs_and_rejects_duplicates() -> None:
    pairs = read("--columns=observation_id=id", "--columns=gcs_uri=file.uri").given["columns"]
    assert pairs == {"observation_id": "id", "gcs_uri": "file.uri"}
    assert "gives a twice" in refusal("--columns=a=b", "--columns=a=c")


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2025-01-31", "2025-01-31T00:00:00Z"),
        ("2025-01-31T10:00:00Z", "2025-01-31T10:00:00Z"),
        ("2025-01-31T10:00:00+02:00", "2025-01-31T08:00:00Z"),
        ("2025-01-31 10:00:00", "2025-01-31T10:00:00Z"),
    ],
)
def test_converts_times_to_utc(text: str, utc: str) -> None:
    assert read(f"--captured_from={text}").given["captured_from"] == utc


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--limt=5", "unknown flag --limt; did you mean --limit?"),
        ("--sampel-percent=5", "did you mean --sample_percent?"),
        ("--reigon=x", "did you mean --region?"),
        ("--zzzzzzzz=1", "see imagebeam classify --help"),
        ("--limit=0", "--limit takes a whole number from 1 up, not 0"),
        ("--limit=-3", "not -3"),
        ("--limit=many", "--limit takes a whole number from 1 up, not 'many'"),
        ("--limit=1.5", "not '1.5'"),
        ("--limit=", "--limit is empty; for example 100"),
        ("--limit", "--limit needs a value; for example --limit=100"),
        ("--in_flight=5000", "--in_flight takes a whole number from 1 to 4096, not 5000"),
        ("--sample_percent=0", "--sample_percent takes a number above 0 up to 100, not 0"),
        ("--sample_percent=100.1", "not 100.1"),
        ("--sample_percent=nan", "not 'nan'"),
        ("--unit_deadline_s=inf", "not 'inf'"),
        ("--max_cost_usd=0", "--max_cost_usd takes a number above 0, not 0"),
        ("--max_cost_usd=-5", "not -5"),
        ("--max_cost_usd=$5", "not '$5'"),
        ("--max_calls=0", "--max_calls takes a whole number from 1 up, not 0"),
        ("--max_tpm=-1", "--max_tpm takes a whole number from 1 up, not -1"),
        ("--lane=flexx", "--lane takes online, flex, batch, not 'flexx'; did you mean flex?"),
        ("--runner=DirectRunner", "--runner takes FnApiRunner"),
        ("--yes=maybe", "--yes takes true or false, not 'maybe'"),
        ("--source=my_table", "--source takes project.dataset.table or dataset.table, not 'my_table'"),
        ("--source=p.d.t; DROP TABLE x", "--source takes"),
        ("--results=a.b.c", "--results takes dataset or project.dataset"),
        ("--project=My Project", "--project takes a project id"),
        ("--location=Mars", "--location takes global, a region"),
        ("--due=never", "--due takes new, retry, outdated, failed or failed:REASON, not 'never'"),
        ("--due=new,", "not ''"),
        ("--asset_types=A B", "--asset_types takes names, separated by commas, not 'A B'"),
        ("--columns=observation_id", "--columns takes name=value pairs"),
        ("--bbox=1,2,3", "--bbox='1,2,3' must be west,south,east,north in degrees"),
        ("--bbox=1,2,3,north", "must be west,south,east,north in degrees"),
        ("--bbox=7,47,8,46", "south is not less than north; the order is west,south,east,north"),
        ("--bbox=8,46,7,47", "west is not less than east"),
        ("--bbox=-190,46,7,47", "-190 is not a longitude"),
        ("--near=91,7,5", "91 is not a latitude"),
        ("--near=46,7,0", "the radius must be above 0 meters"),
        ("--captured_from=yesterday", "--captured_from='yesterday' is not a time; use the form 2026-05-31"),
        ("--captured_from=2025-02-30", "'2025-02-30' is not a time"),
        ("--captured_from=0001-01-01T00:00:00+10:00", "outside of the years"),
        ("--run_id=My Run", "--run_id takes lowercase letters, digits and -"),
        ("-limit=5", "flags are written with two dashes"),
        ("limit=5", "flags are written --name=value; did you mean --limit?"),
        ("describe", "imagebeam classify does not accept the argument 'describe'"),
        ("--num_workers=many", "invalid int value: 'many' (a Beam option)"),
        ("--region", "--region needs a value (a Beam option)"),
        ("--no_auth=perhaps", "--no_auth takes true or false, not 'perhaps'"),
    ],
)
def test_rejects_invalid_values_with_one_line(argument: str, said: str) -> None:
    assert said in refusal(argument)


def test_rejects_a_flag_without_value_before_another_flag() -> None:
    assert "--task needs a value" in refusal("--task", "--limit=5")


def test_passes_beam_options_on() -> None:
    line = read("--region=europe-west6", "--temp-location", "gs://b/t", "--no_auth", "--enable_hot_key_logging=false")
    assert line.beam == ("--region=europe-west6", "--temp_location=gs://b/t", "--no_auth")
    assert line.given == {}


def test_accepts_equals_signs_and_dashes_in_values() -> None:
    assert read("--where=a = 1 -- and b").given["where"] == "a = 1 -- and b"


def test_parses_own_flags_without_importing_beam() -> None:
    program = (
        "import sys\n"
        "from imagebeam.pipeline.flags.classify import CLASSIFY\n"
        "from imagebeam.pipeline.flags.command import FlagCommand\n"
        "command = FlagCommand('x', CLASSIFY, beam=True)\n"
        "command.parse(['--task=a', '--runner=FnApiRunner'])\n"
        "try: command.parse(['--limit=0'])\n"
        "except Exception as error: print(type(error).__name__)\n"
        "print([name for name in sys.modules if name.startswith(('apache_beam', 'google.cloud.'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=280)
    assert done.stdout == "UserError\n[]\n"


_NUMBERS = {"allow_nan": False, "allow_infinity": False}
_NAMES = st.lists(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), min_size=1, unique=True).map(tuple)


@given(
    st.one_of(
        st.tuples(st.just(CLASSIFY["limit"]), st.integers(1, 10**12)),
        st.tuples(st.just(CLASSIFY["sample_percent"]), st.integers(1, 10**6).map(lambda n: n / 10**4)),
        st.tuples(st.just(CLASSIFY["asset_types"]), _NAMES),
        st.tuples(
            st.just(CLASSIFY["columns"]),
            st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.sampled_from(["a", "b.c"]), min_size=1),
        ),
        st.tuples(st.just(CLASSIFY["yes"]), st.booleans()),
    )
)
def test_values_round_trip_as_text(case: tuple[Setting, Any]) -> None:
    flag, value = case
    assert flag_values.read(flag, flag_values.to_text(flag, value), where=flag.name) == value


@given(st.sampled_from(FLAGS), st.text(max_size=30))
def test_any_text_is_a_value_or_an_error_of_one_line(flag: Setting, text: str) -> None:
    message = f"--{flag.name}"
    try:
        flag_values.read(flag, text, where=f"--{flag.name}")
    except UserError as error:
        message = str(error)
    assert message.startswith(f"--{flag.name}")
    assert "\n" not in message


def test_every_kind_of_value_is_used() -> None:
    assert {flag.kind for flag in FLAGS} == set(Kind)
