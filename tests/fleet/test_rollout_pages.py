"""The pages of rollouts without a script: seen, created once, paused and rolled back by clicking, approved by another person."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from dashboard_world import text_of
from databases import SqliteDatabases
from page_world import Pages, pages_of
from rollout_world import RolloutWorld

from fleet.dashboard.plan_form import PlanForm, place_of, read_plan
from fleet.gates.answers import Answer, Finding, LookAnswer
from fleet.gates.plan import Metric
from fleet.rollouts.states import RolloutState, Verb
from fleet.storage.rollout_tables import RolloutLook
from protocol.messages.kinds import InstallStatus
from runtime.errors import FedgeError

TYPED = {
    "name": "pump v2",
    "release": "pump/2",
    "first": "2",
    "first_unit": "devices",
    "second": "50",
    "soak_h": "1",
    "on_not_seen": "pause",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """On SQLite alone: what pages ask of the database is asked on both in `test_reach`."""
    with (
        SqliteDatabases(tmp_path_factory.mktemp("databases")).fresh() as url,
        closing(RolloutWorld(url)) as world,
        pages_of(world, tmp_path_factory.mktemp("pages")) as pages,
    ):
        yield pages


@pytest.fixture
def pages(served: Pages) -> Iterator[Pages]:
    yield served
    served.forget()


def hidden(answer: Any, name: str) -> str:
    """What a form of the page carries along."""
    match = re.search(rf'name="{name}" value="([^"]*)"', answer.text)
    assert match is not None, text_of(answer)
    return html.unescape(match[1])


def preview(pages: Pages, person: str = "ann", **changes: str) -> Any:
    form = pages.people[person].get("/rollouts/new")
    return pages.people[person].post("/rollouts/new", **{"key": hidden(form, "key")} | TYPED | changes)


def say(pages: Pages, person: str, rollout: str, verb: str, **changes: str) -> Any:
    """Ask for the confirmation, and press its button."""
    asked = pages.people[person].get(f"/rollouts/{rollout}/{verb}")
    assert asked.status_code == 200, text_of(asked)
    return pages.people[person].post(
        f"/rollouts/{rollout}/{verb}", **{"standing": hidden(asked, "standing")} | changes
    )


def test_a_rollout_is_previewed_then_made_and_started_and_a_double_click_makes_one(pages: Pages) -> None:
    shown = preview(pages)
    assert shown.status_code == 200
    assert "12 devices would get pump/2" in text_of(shown)
    assert "Start with 2 of 12 devices" in text_of(shown)
    assert "What its gates would see" in text_of(shown)
    form = {"key": hidden(shown, "key"), "plan": hidden(shown, "plan"), "start": "yes"}
    first, second = (pages.people["ann"].post("/rollouts", **form) for _ in range(2))
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.headers["location"] == second.headers["location"]
    rollout = first.headers["location"].rpartition("/")[2]
    assert pages.world.view(rollout).state is RolloutState.RUNNING
    drawn = [device for group in range(3) for device in pages.world.members(rollout, group)]
    assert all(device in shown.text for device in drawn)
    page = pages.people["ann"].get(f"/rollouts/{rollout}")
    assert "RUNNING" in text_of(page)
    assert len(re.findall("<h1", page.text)) == 1


def test_who_goes_back_and_changes_the_plan_makes_another_rollout(pages: Pages) -> None:
    shown = preview(pages)
    form = {"key": hidden(shown, "key"), "plan": hidden(shown, "plan")}
    pages.people["ann"].post("/rollouts", **form)
    changed = pages.people["ann"].post("/rollouts/new", **TYPED | {"key": form["key"], "first": "3"})
    assert changed.status_code == 200
    again = {"key": hidden(changed, "key"), "plan": hidden(changed, "plan")}
    assert again["key"] != form["key"]
    made = pages.people["ann"].post("/rollouts", **again)
    view = pages.world.view(made.headers["location"].rpartition("/")[2])
    assert view.groups[0].devices == 3


@pytest.mark.parametrize(
    ("typed", "field", "words"),
    [
        ({"release": "pump/9"}, "release", "there is no release pump/9"),
        ({"target_query": "site=="}, "target_query", ""),
        ({"target_query": "site==nowhere"}, "target_query", "selects no enrolled device"),
        ({"more": '{"grops": []}'}, "more", "did you mean 'groups'"),
    ],
)
def test_what_is_wrong_with_a_plan_stands_beside_its_field(
    pages: Pages, typed: dict[str, str], field: str, words: str
) -> None:
    shown = pages.people["ann"].post("/rollouts/new", **TYPED | typed)
    assert 400 <= shown.status_code < 500
    place = re.search(r'id="wrong-(\w+)" role="alert">(.*?)</span>', shown.text, re.DOTALL)
    assert place is not None, text_of(shown)
    assert place[1] == field
    assert words in html.unescape(place[2])
    assert 'name="plan"' not in shown.text, "nothing can be created from it"


@pytest.mark.parametrize(
    ("typed", "field", "words"),
    [
        ({"release": "../x"}, "release", "is not of the form"),
        ({"first": "many"}, "first", "groups[0].count"),
        ({"second": "101"}, "second", "groups[1].percentage"),
        ({"second": "100"}, "first", "must grow"),
        ({"abort_pct": "x"}, "abort_pct", "abort[0].threshold_pct"),
        ({"more": "{"}, "more", "no JSON"),
        ({"more": "[" * 5000}, "more", "no JSON"),
        ({"more": "7"}, "more", "must be an object"),
        ({"more": '{"gates": {"false_stp": 0.1}}'}, "more", "did you mean 'gates.false_stop'"),
        ({"rollback_to": "pump/2"}, "rollback_to", "is the release itself"),
    ],
)
def test_each_refusal_of_a_plan_has_its_place_in_the_form(
    typed: dict[str, str], field: str, words: str
) -> None:
    form = PlanForm.model_validate(TYPED | typed)
    with pytest.raises(FedgeError) as refused:
        read_plan(form)
    place = place_of(refused.value, form)
    assert (place.field, words in place.words) == (field, True), place


def test_json_goes_over_the_fields_and_the_plan_is_the_one_that_was_shown(pages: Pages) -> None:
    shown = preview(pages, more='{"dynamic": true, "groups": [{"percentage": 100}]}', soak_h="7")
    form = {"key": hidden(shown, "key"), "plan": hidden(shown, "plan")}
    made = pages.people["ann"].post("/rollouts", **form)
    view = pages.world.view(made.headers["location"].rpartition("/")[2])
    assert (view.state, view.plan["dynamic"], len(view.groups)) == (RolloutState.READY, True, 1)


def test_a_plan_that_nobody_previewed_is_refused_in_words(pages: Pages) -> None:
    for plan in ("", "{", "[]", '{"release": 7}', "\ufffd", "[" * 15_000):
        answer = pages.people["ann"].post("/rollouts", key="pv-" + "0" * 32, plan=plan)
        assert answer.status_code == 422
        assert "<h1" in answer.text


def test_pause_and_roll_back_are_always_there_and_say_how_many_devices(pages: Pages) -> None:
    rollout = pages.rollout()
    page = text_of(pages.people["ann"].get(f"/rollouts/{rollout}"))
    assert "Pause" in page
    assert "Roll back" in page
    asked = text_of(pages.people["ann"].get(f"/rollouts/{rollout}/pause"))
    assert "Pause: 10 devices wait" in asked
    paused = say(pages, "ann", rollout, "pause")
    followed = text_of(pages.people["ann"].follow(paused))
    assert "paused: it is PAUSED now" in followed
    assert pages.world.view(rollout).state is RolloutState.PAUSED
    disabled = re.search(
        r"<button[^>]*disabled[^>]*>Pause", pages.people["ann"].get(f"/rollouts/{rollout}").text
    )
    assert disabled is not None, "it stays at its place"
    back = text_of(pages.people["ann"].get(f"/rollouts/{rollout}/rollback"))
    assert "Roll back 2 devices" in back
    assert "pump/2 is withdrawn for good" in back
    say(pages, "ann", rollout, "rollback")
    assert pages.world.view(rollout).state in {RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK}


def test_a_second_click_and_a_page_that_is_out_of_date_do_nothing(pages: Pages) -> None:
    rollout = pages.rollout()
    asked = pages.people["ann"].get(f"/rollouts/{rollout}/pause")
    standing = hidden(asked, "standing")
    pages.people["ann"].post(f"/rollouts/{rollout}/pause", standing=standing)
    pages.world.now += 5
    pages.world.say(rollout, Verb.RESUME)
    again = pages.people["ann"].post(f"/rollouts/{rollout}/pause", standing=standing)
    assert pages.world.view(rollout).state is RolloutState.RUNNING
    assert "changed in between, and is RUNNING now" in text_of(pages.people["ann"].follow(again))


def test_another_person_than_its_author_approves(pages: Pages) -> None:
    rollout = pages.world.create(require_approval=True)
    own = pages.people["ann"].get(f"/rollouts/{rollout}")
    assert "another person" in text_of(own)
    assert f'href="/rollouts/{rollout}/approve"' not in own.text
    assert "another person than its author approves" in text_of(
        pages.people["ann"].get(f"/rollouts/{rollout}/approve")
    )
    standing = hidden(pages.people["bob"].get(f"/rollouts/{rollout}/approve"), "standing")
    refused = pages.people["ann"].post(f"/rollouts/{rollout}/approve", standing=standing)
    assert refused.status_code == 403
    assert pages.world.view(rollout).state is RolloutState.WAITING_FOR_APPROVAL
    say(pages, "bob", rollout, "approve")
    assert pages.world.view(rollout).state is RolloutState.READY


def test_a_viewer_is_shown_no_button_and_refused_all_the_same(pages: Pages) -> None:
    rollout = pages.rollout()
    vic = pages.people["vic"]
    page = vic.get(f"/rollouts/{rollout}")
    assert page.status_code == 200
    assert not re.search(r"<button(?![^>]*plain)", page.text), "but for signing out"
    assert "/rollouts/new" not in vic.get("/rollouts").text
    standing = hidden(pages.people["ann"].get(f"/rollouts/{rollout}/pause"), "standing")
    for verb in Verb:
        assert vic.get(f"/rollouts/{rollout}/{verb}").status_code == 403
        assert vic.post(f"/rollouts/{rollout}/{verb}", standing=standing).status_code == 403
    assert vic.get("/rollouts/new").status_code == 403
    assert vic.post("/rollouts/new", **TYPED).status_code == 403
    assert vic.post("/rollouts", key="pv-" + "0" * 32, plan="{}").status_code == 403
    assert vic.get("/releases/pump/2/withdraw").status_code == 403
    assert vic.post("/releases/pump/2/withdraw", reason="no").status_code == 403
    assert pages.world.view(rollout).state is RolloutState.RUNNING


def look(finding: Finding, **answer: Any) -> LookAnswer:
    told: dict[str, Any] = {
        "metric": Metric.LATENCY_P99,
        "finding": finding,
        "reason": "latency: +33 % <b>loud</b>",
        "effect": 1.33,
        "low": 1.3,
        "high": 1.36,
        "p": 4e-6,
        "level": 7e-5,
        "canaries": 20,
        "controls": 60,
    }
    return LookAnswer(
        finding=finding,
        reason="harm",
        number=2,
        of=6,
        is_last=False,
        answers=(Answer(**told | answer), Answer(metric=Metric.RESTARTS, finding=finding, reason="none")),
    )


def test_each_gate_is_an_interval_beside_its_limit_and_every_text_is_text(pages: Pages) -> None:
    rollout = pages.rollout(groups=[{"percentage": 100, "soak_s": 10}], gates={}, name="<script>x</script>")
    with pages.world.database.write() as session:
        for number, answer in enumerate((look(Finding.NOT_SEEN), look(Finding.STOP, low=None)), start=1):
            builtins = {
                "finding": answer.finding,
                "reason": answer.reason,
                "of": 6,
                "is_last": False,
                "answers": [
                    {name: getattr(one, name) for name in one.__struct_fields__} for one in answer.answers
                ],
            }
            session.add(
                RolloutLook(rollout=rollout, group=0, number=number, at=1.0 * number, answer=builtins)
            )
    page = pages.people["vic"].get(f"/rollouts/{rollout}")
    text = text_of(page)
    assert "Harm, beyond what chance explains" in text
    assert "20 devices against 60 controls" in text
    assert "p .000004, stops below .00007" in text
    assert "matters: +20 %" in text
    assert page.text.count('class="reach bad"') >= 1
    assert "Over 2 looks" in text
    assert "<script>x" not in page.text
    assert "<b>loud" not in page.text
    assert "&lt;b&gt;loud" in page.text


def test_failures_are_counted_by_reason_and_devices_and_the_timeline_are_paged(pages: Pages) -> None:
    rollout = pages.rollout(groups=[{"percentage": 100}], success={"threshold_pct": 10})
    broken = pages.world.members(rollout, 0)[:3]
    for device in broken:
        pages.world.report(device, InstallStatus.FAILED, reason="disk <i>full</i>")
    pages.world.tick()
    page = pages.people["vic"].get(f"/rollouts/{rollout}")
    failed = page.text.partition("Why devices failed")[2]
    assert re.search(r'<td class="number">3</td>.*?disk &lt;i&gt;full', failed, re.DOTALL)
    group = pages.people["vic"].get(f"/rollouts/{rollout}/groups/0")
    assert all(device in group.text for device in pages.world.members(rollout, 0))
    assert pages.people["vic"].get(f"/rollouts/{rollout}/groups/7").status_code == 404
    lines = pages.people["vic"].get(f"/rollouts/{rollout}/timeline?subject=device")
    assert "GIVEN" in text_of(lines)
    assert pages.people["vic"].get(f"/rollouts/{rollout}/timeline?after=nonsense").status_code == 422
    assert pages.people["vic"].get("/rollouts/ro-nothing").status_code == 404
    listed = pages.people["vic"].get("/rollouts?state=RUNNING")
    assert f"/rollouts/{rollout}" in listed.text
    assert f"/rollouts/{rollout}" not in pages.people["vic"].get("/rollouts?state=PAUSED").text
