"""Attacks by people and programs that hold a token, and by whoever stole one: what is refused, and what the audit log shows of it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import run_command
from databases import Databases, SqliteDatabases
from fastapi.testclient import TestClient
from fleet_world import operator_token
from rights_table import routes
from rollout_world import FAMILY, PLAN, RolloutWorld

from fleet.app import build_app
from fleet.rollouts.states import Verb
from fleet.settings import Settings
from service.roles import Role

WAITING = PLAN | {"require_approval": True, "groups": [{"percentage": 100}], "success": {}, "limits": []}
TOKENS = {
    "ann": (Role.OPERATOR, {}),
    "ann-too": (Role.OPERATOR, {"person": "Ann"}),
    "ann-root": (Role.ADMIN, {"person": "ANN"}),
    "ann-script": (Role.OPERATOR, {"person": "ann", "is_program": True}),
    "bob": (Role.OPERATOR, {}),
    "bob-script": (Role.ADMIN, {"person": "bob", "is_program": True}),
    "vic": (Role.VIEWER, {}),
    "agg": (Role.PUBLISHER, {"families": (FAMILY,)}),
    "agg-2": (Role.PUBLISHER, {"families": (FAMILY, "fan")}),
    "other": (Role.PUBLISHER, {"families": ("fan",)}),
    "anns": (Role.PUBLISHER, {"person": "ann"}),
}


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """SQLite alone: who may do what does not hang on the database."""
    return SqliteDatabases(tmp_path_factory.mktemp("databases"))


class Site:
    """The real application over twelve devices, and everybody of `TOKENS`."""

    def __init__(self, api: TestClient, world: RolloutWorld, folder: Path) -> None:
        self.api, self.world, self.folder = api, world, folder
        with world.database.write() as session:
            self.tokens = {
                name: operator_token(session, name, role, world.now, **grant)
                for name, (role, grant) in TOKENS.items()
            }

    def ask(self, who: str, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
        headers = {"Authorization": f"Bearer {self.tokens[who]}"}
        answer = self.api.request(method, path, json=body, headers=headers)
        return answer.status_code, answer.json()

    def create(self, who: str, **changes: object) -> str:
        status, made = self.ask(who, "POST", "/v1/rollouts", WAITING | changes)
        assert status == 201, made
        return f"/v1/rollouts/{made['id']}"

    def say(self, who: str, rollout: str, verb: str) -> tuple[int, dict[str, object]]:
        return self.ask(who, "POST", f"{rollout}:{verb}", {"confirm": rollout.rpartition("/")[2]})

    def actions(self, actor: str) -> list[str]:
        headers = {"Authorization": f"Bearer {self.tokens['ann-root']}"}
        lines = self.api.get("/v1/audit?limit=500", headers=headers).json()["items"]
        return [line["action"] for line in lines if line["actor"] == actor][::-1]


@pytest.fixture
def site(world: RolloutWorld, tmp_path: Path, database_url: str) -> Iterator[Site]:
    (tmp_path / "fleet.toml").write_text(
        f'data_dir = "data"\ntenant = "demo"\ndatabase_url = "{database_url}"\napproved_families = ["fan"]\n'
    )
    settings = Settings(data_dir=tmp_path / "data", tenant="demo", approved_families=("fan",))
    with TestClient(build_app(settings, world.database), raise_server_exceptions=False) as client:
        yield Site(client, world, tmp_path)


def on_server(site: Site, *words: str) -> str:
    done = run_command("fleet", *words, "--config", str(site.folder / "fleet.toml"))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("who", ["ann-too", "ann-script"])
def test_nobody_approves_what_they_made_themselves_whichever_of_their_tokens_made_it(
    site: Site, who: str
) -> None:
    rollout = site.create(who)
    for again in ("ann", "ann-too", "ann-root", "ann-script", "bob-script", "vic", "agg", "anns"):
        status, said = site.say(again, rollout, "approve")
        assert status == 403, (again, said)
    assert "a second person" in str(site.say("ann", rollout, "approve")[1]["detail"])
    assert site.say("bob", rollout, "approve")[0] == 200


def test_who_answers_for_a_publisher_does_not_approve_what_it_makes(site: Site) -> None:
    rollout = site.create("anns")
    assert site.say("ann-root", rollout, "approve")[0] == 403
    assert site.say("bob", rollout, "approve")[0] == 200


def test_a_publisher_creates_and_starts_its_own_and_says_no_other_word(site: Site) -> None:
    waiting, free = site.create("agg"), site.create("agg", require_approval=False, name="free")
    anns = site.create("ann", require_approval=False, name="anns")
    for who, rollout in (("agg", waiting), ("agg", anns), ("agg-2", free), ("other", free)):
        assert site.say(who, rollout, "start")[0] == 403, (who, rollout)
    assert site.say("bob", waiting, "approve")[0] == 200
    assert site.say("agg", waiting, "start")[0] == 403, "a person starts what a person approved"
    assert site.say("agg", free, "start")[0] == 200
    for verb in Verb:
        if verb is not Verb.START:
            assert site.say("agg", free, verb)[0] == 403, verb
    status, view = site.ask("ann", "GET", free)
    assert (status, view["state"]) == (200, "RUNNING")


def test_a_publisher_that_was_made_anew_for_another_family_does_not_start_what_it_made_before(
    site: Site,
) -> None:
    rollout = site.create("agg", require_approval=False)
    on_server(site, "tokens", "revoke", "agg", "--yes")
    new = site.folder / "agg.token"
    on_server(
        site,
        *["tokens", "create", "--role", "publisher", "--name", "agg", "--family", "fan", "--out"],
        str(new),
    )
    site.tokens["agg"] = new.read_text().strip()
    assert site.say("agg", rollout, "start")[0] == 403


def test_a_publisher_stays_with_its_families_and_away_from_what_devices_said(site: Site) -> None:
    assert site.ask("other", "POST", "/v1/rollouts", WAITING)[0] == 403
    assert site.ask("agg", "POST", "/v1/rollouts", WAITING | {"force": True})[0] == 403
    for path in ("/v1/drift/summary?family=pump", "/v1/releases/pump/1"):
        assert (site.ask("other", "GET", path)[0], site.ask("agg", "GET", path)[0]) == (403, 200)
    for path, count in (("/v1/devices", 12), ("/v1/releases", 3)):
        items = [len(site.ask(who, "GET", path)[1]["items"]) for who in ("agg", "other")]  # type: ignore[arg-type] # a list
        assert items == [count, 0]
    for path in (
        "/v1/anomalies",
        "/v1/dead-letters",
        "/v1/devices/d00",
        "/v1/devices:settings",
        "/v1/audit",
        "/metrics",
    ):
        assert site.ask("agg", "GET", path)[0] == 403, path


def test_a_plan_cannot_leave_out_the_approval_that_the_settings_want(
    world: RolloutWorld, tmp_path: Path
) -> None:
    before = world.create()
    settings = Settings(data_dir=tmp_path, tenant="demo", approved_families=("*",))
    with TestClient(build_app(settings, world.database), raise_server_exceptions=False) as client:
        strict = Site(client, world, tmp_path)
        for who in ("agg", "bob", "ann-root"):
            rollout = strict.create(who, require_approval=False, name=who)
            assert strict.say(who, rollout, "start")[0] in {403, 409}
            assert strict.ask("ann", "GET", rollout)[1]["state"] == "WAITING_FOR_APPROVAL"
        status, said = strict.say("bob", f"/v1/rollouts/{before}", "start")
        assert (status, "create it anew" in str(said["detail"])) == (409, True)


def test_no_call_makes_a_token(site: Site) -> None:
    calls = set(routes(site.api.app, verbs=list(Verb)))
    assert not [path for _, path in calls if "token" in path]
    for path in ("/v1/tokens", "/v1/operators", "/v1/claims"):
        assert site.ask("ann-root", "POST", path, {"role": "admin"})[0] == 404


def test_a_stolen_token_is_void_at_once_and_what_it_did_is_in_the_log(site: Site) -> None:
    stolen = site.tokens["bob"]
    rollout = site.create("bob", require_approval=False)
    assert site.say("bob", rollout, "start")[0] == 200
    assert site.ask("bob", "POST", "/v1/devices/d00:revoke", {"confirm": "d00"})[0] == 403
    kept = str(on_server(site, "audit", "verify")).rpartition("head is ")[2].split()[0]
    new = site.folder / "bob.token"
    on_server(site, "tokens", "rotate", "bob", "--now", "--out", str(new))
    assert site.ask("bob", "GET", "/v1/devices")[0] == 401
    assert site.say("bob", rollout, "rollback")[0] == 401
    site.tokens["bob"] = new.read_text().strip()
    assert stolen != site.tokens["bob"]
    assert site.say("bob", rollout, "pause")[0] == 200
    assert site.actions("operator:bob") == ["rollout_created", "rollout_start", "rollout_pause"]
    assert "token_rotated" in [line["action"] for line in json.loads(exported(site))]
    on_server(site, "audit", "verify", "--head", kept)
    on_server(site, "tokens", "revoke", "bob", "--yes")
    assert site.ask("bob", "GET", "/v1/devices")[0] == 401
    listed = json.loads(on_server(site, "tokens", "list", "--json"))
    assert [one["revoked_at"] is not None for one in listed if one["name"] == "bob"] == [True]


def exported(site: Site) -> str:
    out = site.folder / f"{secrets.token_hex(4)}.jsonl"
    on_server(site, "audit", "export", "--out", str(out))
    return "[" + ",".join(out.read_text().splitlines()) + "]"


def test_a_secret_goes_into_a_new_private_file_or_nowhere(site: Site) -> None:
    out = site.folder / "new.token"
    create = ("tokens", "create", "--role", "viewer", "--name", "tv", "--out", str(out))
    on_server(site, *create)
    assert (out.stat().st_mode & 0o777, out.read_text()[:3]) == (0o600, "fo_")
    before = out.read_text()
    for words in (("tokens", "create", "--role", "viewer", "--name", "tv-2"), ("tokens", "rotate", "tv")):
        refused = run_command("fleet", *words, "--out", str(out), "--config", str(site.folder / "fleet.toml"))
        assert (refused.returncode, "File exists" in refused.stderr) == (1, True), refused.stderr
    assert out.read_text() == before
    names = [one["name"] for one in json.loads(on_server(site, "tokens", "list", "--json"))]
    assert "tv-2" not in names, "no token was made that nobody holds"
    site.tokens["tv"] = before.strip()
    assert site.ask("tv", "GET", "/v1/devices")[0] == 200, "the refused rotation changed nothing"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tokens create --role viewer --name tv --valid 999999999d", "no length of time"),
        ("tokens rotate vic --grace 999999999d", "no length of time"),
        ("claims create --family pump --valid 999999999d", "no length of time"),
        ("tokens create --role viewer --name tv --out .", "no name of a file"),
        ("audit export --out .", "no name of a file"),
    ],
)
def test_what_nobody_could_list_or_read_later_is_refused_in_words(site: Site, words: str, said: str) -> None:
    refused = run_command("fleet", *words.split(), "--config", str(site.folder / "fleet.toml"))
    assert (refused.returncode, said in refused.stderr) == (1, True), refused.stderr
    assert "Traceback" not in refused.stderr
    on_server(site, "tokens", "list")


def test_an_export_that_is_not_there_is_told_and_not_a_traceback(tmp_path: Path) -> None:
    for name in ("nofile", "."):
        refused = run_command("fleet", "audit", "verify", "--file", str(tmp_path / name))
        assert (refused.returncode, "cannot read" in refused.stderr) == (1, True), refused.stderr


def test_the_first_command_makes_a_folder_that_nobody_else_reads(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('data_dir = "data"\ntenant = "demo"\n')
    listed = run_command("fleet", "tokens", "list", "--config", str(tmp_path / "fleet.toml"))
    assert listed.returncode == 0, listed.stderr
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
