"""The pages of training and releases: what the aggregator says, also when it says nothing, and where a release came from and went."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import msgspec
import pytest
from dashboard_world import text_of
from databases import SqliteDatabases
from page_world import Pages, pages_of
from rollout_world import RolloutWorld

from fleet.aggregator_client import AggregatorClient
from fleet.dashboard.pages.releases import verdict_link
from fleet.lookups.release_lineage import Lineage
from fleet.storage.release_tables import Release
from fleet.verdicts import ReleasePrecision
from models.drift.labels import PrecisionSettings, watch_precision
from protocol.manifest import Provenance

REASON = "loss 2 against the champion's 1: -100 % is not enough <b>"
RUN: dict[str, Any] = {
    "id": "run-1",
    "family": "pump",
    "state": "REJECTED_BY_GATE",
    "trigger": "program",
    "reason": "the <i>weekly</i> pipeline",
    "requested_by": "airflow",
    "detail": "the gate refused it",
    "planned_rounds": 2,
    "finished_rounds": 2,
    "created_at": 1.0,
    "ended_at": 2.0,
    "rounds": [
        {
            "kind": "fit",
            "number": 1,
            "asked": 5,
            "participants": ["d00", "d01"],
            "refused": [{"device": "d02", "reason": "beyond the clip"}],
            "lost": ["d03"],
            "stages": {"d03": "unmask"},
        },
        {
            "kind": "fit",
            "number": 1,
            "attempt": 2,
            "asked": 5,
            "participants": ["d00"],
            "void": True,
            "note": "too few",
        },
    ],
    "evaluation": {"candidate_loss": 2.0, "champion_loss": 1.0},
    "checks": [
        {"name": "improvement", "value": -1.0, "limit": 0.0, "is_passed": False, "reason": REASON},
        {
            "name": "sight",
            "value": 0.6,
            "limit": 0.5,
            "is_passed": True,
            "reason": "sees 60 %",
            "is_warning": True,
        },
    ],
    "participants": ["d00", "d01"],
}
AMOUNT = {"spent": 3.0, "limit": 8.0, "left": 5.0}
UNLIMITED = {"spent": None, "limit": None, "left": None}


def answers() -> dict[str, Any]:
    """By path, what the aggregator says; what is not there it does not know."""
    family = {
        "family": "pump",
        "mode": "private",
        "delta": 1e-6,
        "epsilon_server": AMOUNT,
        "epsilon_release": UNLIMITED,
    }
    given = {"family": "pump", "delta": 1e-6, "epsilon": AMOUNT, "sums": {"spent": 6, "limit": 9, "left": 3}}
    run = {"run": "run-1", "asked": 7, "sums": 6, "epsilon": 3.0, "questions": {"train.fit": 6}}
    return {
        "/v1/training-runs": {"items": [RUN], "next_cursor": "abc"},
        "/v1/training-runs/run-1": RUN,
        "/v1/privacy": {"items": [family | {"sums": AMOUNT, "devices": 4, "rounds": 6}]},
        "/v1/privacy/devices/d00": {"device": "d00", "families": [given | {"runs": [run]}]},
        "/v1/privacy/devices/d01": {
            "device": "d01",
            "families": [given | {"epsilon": UNLIMITED, "noiseless": 6}],
        },
        "/v1/privacy/devices/d02": {"device": "d02", "families": []},
    }


class Aggregator:
    """One that says what `says` holds; `away`: it does not answer."""

    def __init__(self) -> None:
        self.says, self.away, self.clock = answers(), False, 0.0
        http = httpx.AsyncClient(base_url="https://aggregator", transport=httpx.MockTransport(self._answer))
        self.client = AggregatorClient(http, now=lambda: 5.0, clock=lambda: self.clock)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("connection refused")
        found = self.says.get(request.url.path)
        if found is None:
            return httpx.Response(404, json={"detail": "no such run"})
        return httpx.Response(200, content=json.dumps(found))

    def later(self) -> None:
        """What was said lately is old by now."""
        self.clock += 3600


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pages, Aggregator]]:
    aggregator = Aggregator()
    with (
        SqliteDatabases(tmp_path_factory.mktemp("databases")).fresh() as url,
        closing(RolloutWorld(url)) as world,
        pages_of(world, tmp_path_factory.mktemp("pages"), aggregator.client) as pages,
    ):
        yield pages, aggregator


@pytest.fixture
def pages(served: tuple[Pages, Aggregator]) -> Iterator[Pages]:
    yield served[0]
    served[0].forget()


@pytest.fixture
def aggregator(served: tuple[Pages, Aggregator]) -> Aggregator:
    made = served[1]
    made.says, made.away = answers(), False
    made.later()
    return made


def test_why_a_run_was_refused_stands_first_in_words(pages: Pages, aggregator: Aggregator) -> None:
    page = pages.people["vic"].get("/training/run-1")
    text = text_of(page)
    assert page.status_code == 200
    assert "The candidate was refused, and what runs on the devices stays." in text
    assert text.index("is not enough") < text.index("Candidate against champion")
    assert "Train more rounds or with a smaller learning rate" in text
    assert "100 % worse" in text
    assert "&lt;b&gt;" in page.text
    assert "<i>weekly" not in page.text
    assert "d02 refused: beyond the clip" in text
    assert "d03 fell silent at unmask" in text
    assert "void too few" in text


def test_the_list_says_what_each_family_has_spent_and_what_is_left(
    pages: Pages, aggregator: Aggregator
) -> None:
    page = pages.people["vic"].get("/training")
    text = text_of(page)
    assert "ε towards the aggregator: 3 of 8, 5 left." in text
    assert "ε towards whoever sees releases: unlimited: sums without noise." in text
    assert 'href="/training?after=abc"' in page.text
    assert "run-1" in text


def test_what_a_device_has_given_and_what_only_it_knows(pages: Pages, aggregator: Aggregator) -> None:
    given = text_of(pages.people["vic"].get("/devices/d00/privacy"))
    assert "3 of 8, 5 left, at δ 10⁻⁶" in given
    assert "it is in 6 of at most 9, 3 left" in given
    assert "train.fit × 6" in given
    assert "fedge-agent privacy" in given
    assert "6 of its 6 sums carried no noise" in text_of(pages.people["vic"].get("/devices/d01/privacy"))
    assert "given nothing" in text_of(pages.people["vic"].get("/devices/d02/privacy"))
    assert pages.people["vic"].get("/devices/nobody/privacy").status_code == 404


@pytest.mark.parametrize(
    "address", ["/training", "/training/run-1", "/devices/d00/privacy", "/releases/pump/2"]
)
def test_an_aggregator_that_is_away_is_said_and_what_it_said_last_is_shown(
    pages: Pages, aggregator: Aggregator, address: str
) -> None:
    before = text_of(pages.people["vic"].get(address))
    aggregator.later()
    aggregator.away = True
    page = pages.people["vic"].get(address)
    assert page.status_code == 200
    if address != "/releases/pump/2":  # which was made by no run, and asks nobody
        assert "not reachable: connection refused" in text_of(page)
        assert "run-1" in before
        assert "run-1" in text_of(page)


@pytest.mark.parametrize(
    "says", [{"items": 7}, [], {"items": [{"id": 7}]}, {"items": [RUN | {"created_at": "yesterday"}]}]
)
def test_an_aggregator_of_another_version_is_said_and_never_a_500(
    pages: Pages, aggregator: Aggregator, says: Any
) -> None:
    aggregator.says["/v1/training-runs"] = aggregator.says["/v1/privacy"] = says
    page = pages.people["vic"].get("/training")
    assert page.status_code == 200
    assert "is it another version?" in text_of(page)


def test_a_run_that_nobody_knows_is_404_and_a_run_of_little_is_shown(
    pages: Pages, aggregator: Aggregator
) -> None:
    assert pages.people["vic"].get("/training/run-0").status_code == 404
    for state in ("INVITING", "ROUND", "COMPLETED", "FAILED", "CANCELED", "REJECTED_BY_GATE", "NEW_STATE"):
        aggregator.says["/v1/training-runs/run-1"] = {"id": "run-1", "family": "pump", "state": state}
        aggregator.later()
        assert pages.people["vic"].get("/training/run-1").status_code == 200


def with_provenance(pages: Pages, version: int, provenance: Provenance) -> None:
    """Have a release say where it came from; the rest is as a manifest has it."""
    with pages.world.database.write() as session:
        record = session.get_one(Release, ("pump", version))
        record.manifest = {
            "provenance": msgspec.to_builtins(provenance),
            "model": {"kind": "dense-autoencoder", "parameter_count": 22},
            "detector": "network",
        }


def test_a_release_is_a_chain_from_its_run_to_its_verdicts(pages: Pages, aggregator: Aggregator) -> None:
    made = Provenance(
        training_run="run-1",
        rounds=8,
        participants=24,
        examples=100,
        parent="pump/1",
        algorithm="FedAvg",
        evaluation={"int8_error": 0.004},
    )
    with_provenance(pages, 2, made)
    with_provenance(pages, 1, Provenance())
    rollout = pages.rollout()
    page = pages.people["vic"].get("/releases/pump/2")
    text = text_of(page)
    order = [
        "run-1 (program",
        "8 of FedAvg",
        "24 took part",
        "no claim",
        "error 0.004",
        "signed by",
        "0 devices",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert f"/rollouts/{rollout}" in page.text
    assert "/releases/pump/2" in pages.people["vic"].get("/releases/pump/1").text, "what was learnt from it"
    assert "Withdraw" not in text, "to a viewer"
    assert pages.people["vic"].get("/releases/pump/99").status_code == 404
    assert pages.people["vic"].get("/releases/pump/nine").status_code == 422


@pytest.mark.parametrize(
    ("drifted_since", "says", "tone"),
    [
        (None, "27 of 30 alarms were true", "good"),
        (1.0, "27 of 30 alarms were true, and fewer than before", "bad"),
    ],
)
def test_the_chain_ends_with_what_people_said_of_its_alarms(
    drifted_since: float | None, says: str, tone: str
) -> None:
    state = watch_precision([True] * 27 + [False] * 3, PrecisionSettings())
    verdicts = ReleasePrecision(
        release="pump/2", state=state, drifted_since=drifted_since, last_verdict_at=1.0
    )
    lineage = Lineage(running=0, online=0, rollouts=[], children=[], verdicts=verdicts)
    link = verdict_link(lineage)
    assert (link.says, link.tone, link.where) == (says, tone, "/precision")


def test_a_release_is_withdrawn_for_a_reason_and_not_while_it_is_rolled_out(pages: Pages) -> None:
    for version in (2, 3):
        with_provenance(pages, version, Provenance())
    ann = pages.people["ann"]
    asked = text_of(ann.get("/releases/pump/3/withdraw"))
    assert "0 devices shall run it" in asked
    assert ann.post("/releases/pump/3/withdraw", reason=" ").status_code == 422
    done = ann.post("/releases/pump/3/withdraw", reason="alarms on <u>every</u> start")
    page = ann.follow(done)
    assert "alarms on &lt;u&gt;every" in page.text
    assert "Roll out" not in text_of(page)
    pages.rollout()
    refused = ann.post("/releases/pump/2/withdraw", reason="x")
    assert refused.status_code == 409
    assert "under way" in text_of(refused)
