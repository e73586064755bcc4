"""The one settings loader: environment over file, and a refusal that says where, what, and what would be valid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct, field

from runtime.errors import FedgeError, SettingsError
from runtime.settings import load_settings, read_settings
from runtime.settings_messages import key_lines, shown

Share = Annotated[float, Meta(gt=0, le=1)]


class Replay(Struct, frozen=True, kw_only=True, tag="replay", tag_field="kind"):
    path: Path
    row_every_s: Annotated[float, Meta(gt=0)] = 1.0


class Simulated(Struct, frozen=True, kw_only=True, tag="simulated", tag_field="kind"):
    seed: Annotated[int, Meta(ge=1, le=5)] = 1


class Family(Struct, frozen=True, kw_only=True):
    GONE: ClassVar[Mapping[str, str]] = {
        "drift_part": "it is drift_share now",
        "colour": "nothing has one now",
    }

    name: str
    drift_share: Share | None = None

    def __post_init__(self) -> None:
        if self.drift_share == 0.5:
            raise ValueError("drift_share of one half decides nothing; choose another")


class Program(Struct, frozen=True, kw_only=True):
    state_dir: Path
    source: Replay | Simulated = Simulated()
    family: tuple[Family, ...] = ()
    first: Family | None = None
    labels: dict[str, str] = field(default_factory=dict)
    keys: tuple[Path, ...] = ()
    weights: tuple[float, ...] = ()
    mode: Literal["fast", "safe"] = "safe"
    is_on: bool = False
    database_url: Annotated[str, Meta(max_length=40)] = ""
    admin_password: Annotated[str, Meta(min_length=9)] | None = None
    config_file: Path = Path()

    def __post_init__(self) -> None:
        if self.is_on and self.mode == "fast":
            raise ValueError("is_on needs mode = 'safe'")


def load(tmp_path: Path, text: str, **variables: str) -> Program:
    file = tmp_path / "program.toml"
    file.write_text(text)
    environment = {f"FEDGE_X_{name}": value for name, value in variables.items()}
    return load_settings(
        file,
        Program,
        prefix="FEDGE_X_",
        environment=environment | {"FEDGE_Y_MODE": "fast", "HOME": "/"},
        ignored=frozenset({"URL"}),
    )


def refusal(tmp_path: Path, text: str, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, **variables)
    assert isinstance(caught.value, FedgeError)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_paths_are_relative_to_the_file_and_the_file_itself_is_known(tmp_path: Path) -> None:
    settings = load(tmp_path, 'state_dir = "state"\nkeys = ["a.pem", "/b.pem"]')
    assert settings.state_dir == tmp_path / "state"
    assert settings.keys == (tmp_path / "a.pem", Path("/b.pem"))
    assert settings.config_file == tmp_path / "program.toml"


def test_a_variable_goes_over_the_file_whatever_its_type(tmp_path: Path) -> None:
    text = 'state_dir = "s"\nmode = "safe"\nis_on = true\n[source]\nkind = "replay"\npath = "p"\nrow_every_s = 3.0\n'
    settings = load(
        tmp_path,
        text,
        STATE_DIR="t",
        MODE="fast",
        IS_ON="false",
        SOURCE__ROW_EVERY_S="2",
        LABELS__SITE="hall 1",
        KEYS='["k"]',
        FIRST__NAME="n",
    )
    assert settings.state_dir == tmp_path / "t"
    assert settings.mode == "fast"
    assert settings.is_on is False
    assert settings.source == Replay(path=tmp_path / "p", row_every_s=2.0)
    assert settings.labels == {"site": "hall 1"}
    assert settings.keys == (tmp_path / "k",)
    assert settings.first == Family(name="n")


def test_a_variable_chooses_among_tables(tmp_path: Path) -> None:
    settings = load(tmp_path, 'state_dir = "s"', SOURCE__KIND="replay", SOURCE__PATH="12.csv")
    assert settings.source == Replay(path=tmp_path / "12.csv")


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        'state_dir = "s"',
        URL="https://cli",
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT_MQTT="8883",
        PORT="tcp://10.0.0.1:8883",
        PORT_8883_TCP_ADDR="10.0.0.1",
    )
    assert settings.mode == "safe"


@pytest.mark.parametrize(
    ("text", "variables", "message"),
    [
        ("stat_dir = 's'", {}, "program.toml:1: unknown key 'stat_dir'; did you mean 'state_dir'?"),
        (
            "\n[source]\nkind = 'simulated'\npath = 'p'",
            {},
            "program.toml:4: unknown key 'source.path'; valid here: kind, seed",
        ),
        (
            "[source]\nkind = 'x'",
            {},
            "program.toml:2: source.kind = 'x' is not valid: expected one of 'replay', 'simulated'",
        ),
        (
            "[source]\nkind = 'simulated'\nseed = 7",
            {},
            "program.toml:3: source.seed = 7 is not valid: expected a whole number at least 1 and at most 5",
        ),
        (
            "[[family]]\nname = 'a'\n[[family]]\nname = 'b'\ndrift_share = 2",
            {},
            "program.toml:5: family[1].drift_share = 2 is not valid: expected a number above 0 and at most 1 (a share of 1)",
        ),
        ("[[family]]\n", {}, "program.toml:1: family[0].name is missing; it has no default"),
        (
            "[[family]]\nname = 'a'\ndrift_part = 0.1",
            {},
            "program.toml:3: unknown key 'family[0].drift_part'; it is drift_share now",
        ),
        (
            "",
            {"FIRST__COLOUR": "1"},
            "FEDGE_X_FIRST__COLOUR: unknown key 'first.colour'; nothing has one now",
        ),
        (
            "[[family]]\nname = 'a'\ndrift_share = 0.5",
            {},
            "program.toml:1: [family[0]] drift_share of one half decides nothing; choose another",
        ),
        (
            "weights = [\n1.0,\nnan]",
            {},
            "program.toml:1: weights[1] = nan is not valid: give a finite number",
        ),
        ("mode = 'slow'", {}, "program.toml:1: mode = 'slow' is not valid: expected one of 'fast', 'safe'"),
        ("labels = {a = 1}", {}, "program.toml:1: [labels] expected `str`, got `int`"),
        ("", {}, "program.toml: state_dir is missing; it has no default"),
        (
            "",
            {"SOURCE__SEDE": "1"},
            "FEDGE_X_SOURCE__SEDE: unknown key 'source.sede'; did you mean 'source.seed'?",
        ),
        (
            "",
            {"SOURCE__KIND": "simulated", "SOURCE__SEED": "9"},
            "FEDGE_X_SOURCE__SEED: source.seed = 9 is not valid: expected a whole number at least 1 and at most 5",
        ),
        (
            "",
            {"SOURCE__KIND": "replay", "SOURCE__PATH": "p", "SOURCE__ROW_EVERY_S": "inf"},
            "FEDGE_X_SOURCE__ROW_EVERY_S: source.row_every_s = inf is not valid: give a finite number",
        ),
        (
            "",
            {"IS_ON": "yes please"},
            (
                "FEDGE_X_IS_ON = 'yes please' is no TOML value for is_on: write it as in the file, e.g. true, 2.5 or"
                ' ["a", "b"]'
            ),
        ),
        (
            "",
            {"IS_ON": "true\nmode = 'fast'"},
            (
                "FEDGE_X_IS_ON = \"true\\nmode = 'fast'\" is no TOML value for is_on: write it as in the file, e.g. true, 2.5"
                ' or ["a", "b"]'
            ),
        ),
        ("", {"FAMILY": "[]"}, "FEDGE_X_FAMILY: [[family]] are tables in a list; give them in the file"),
        ("", {"MODE__X": "1"}, "FEDGE_X_MODE__X: mode is no table, so nothing can be set inside it"),
        (
            "",
            {"FIRST__NAME": "a", "FIRST__DRIFT_SHARE": "0.5"},
            (
                "FEDGE_X_FIRST__DRIFT_SHARE, FEDGE_X_FIRST__NAME: [first] drift_share of one half decides nothing;"
                " choose another"
            ),
        ),
    ],
)
def test_a_refusal_says_where_what_and_what_would_be_valid(
    tmp_path: Path, text: str, variables: dict[str, str], message: str
) -> None:
    given = text if message.startswith("program.toml: state_dir") else f"{text}\n"
    if "state_dir" not in message:
        variables = {"STATE_DIR": "s", **variables}
    assert refusal(tmp_path, given, **variables) == message


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    assert "hunter2" not in refusal(tmp_path, "state_dir = 's'", ADMIN_PASSWORD="hunter2")
    long = "postgresql://fedge:hunter2@db.example.com:5432/a-long-name"
    assert "hunter2" not in refusal(tmp_path, "state_dir = 's'", DATABASE_URL=long)
    assert shown("first.address", long) == "'postgresql://…@db.example.com:5432/a-long-name'"


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://u:p@hunter2/w@db/x",
        "db?password=hunter2&x=1",
        "{'password': 'hunter2'}",
        "a://:hunter2@db",
    ],
)
def test_a_secret_inside_a_value_is_never_shown(value: str) -> None:
    assert "hunter2" not in shown("first.address", [value])


def test_variables_that_only_look_like_those_of_others_are_refused(tmp_path: Path) -> None:
    for name in ("HOST", "PORT_HINT", "SERVICE_HOSTS"):
        assert refusal(tmp_path, "state_dir = 's'", **{name: "1"}).startswith(f"FEDGE_X_{name}: unknown key")


def test_what_keys_mean_together_is_refused_with_the_variables_that_took_part(tmp_path: Path) -> None:
    message = refusal(tmp_path, "state_dir = 's'\nis_on = true", MODE="fast")
    assert message == "program.toml, FEDGE_X_MODE: is_on needs mode = 'safe'"


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000])
def test_a_file_that_breaks_the_parser_is_one_sentence(tmp_path: Path, text: str) -> None:
    assert "is not valid TOML" in refusal(tmp_path, text)
    assert "is no TOML value" in refusal(tmp_path, "state_dir = 's'", IS_ON=text.removeprefix("a = "))


def test_what_is_no_toml_or_no_file_is_one_sentence(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a = ").startswith("program.toml is not valid TOML")
    with pytest.raises(SettingsError, match=r"cannot read .*missing\.toml: No such file"):
        read_settings(tmp_path / "missing.toml", Program)
    (tmp_path / "latin.toml").write_bytes(b"a = '\xe9'")
    with pytest.raises(SettingsError, match=r"latin\.toml is not valid TOML"):
        read_settings(tmp_path / "latin.toml", Program)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufeffstate_dir = 's'").state_dir == tmp_path / "s"


def test_a_file_read_alone_ignores_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGE_X_MODE", "fast")
    (tmp_path / "p.toml").write_text("state_dir = 's'")
    assert read_settings(tmp_path / "p.toml", Program).mode == "safe"


names = st.text("abc", min_size=1, max_size=3)


@given(st.dictionaries(names, st.dictionaries(names, st.integers(), max_size=3), max_size=4))
def test_every_key_of_a_file_has_its_line(tables: dict[str, dict[str, int]]) -> None:
    lines = ["# a comment"]
    expected = {}
    for table, keys in tables.items():
        lines.append(f"[{table}]")
        for key, value in keys.items():
            lines += [f"{key} = [", f"  {value},", "]", ""]
            expected[table, key] = len(lines) - 3
    found = key_lines("\n".join(lines))
    assert {path: found[path] for path in expected} == expected
