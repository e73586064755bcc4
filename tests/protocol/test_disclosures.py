"""The tables of what each message may depend on: complete, of this code, and every check that they name exists."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import get_args

import pytest
from msgspec.structs import fields

from protocol import disclosures
from protocol.disclosures import ANSWER_PARTS, FLEET_ROWS, ROUND_ROWS, Depends, idea_of
from protocol.messages import kinds, payloads
from protocol.questions import KINDS, answer_layout
from protocol.secure_sum import messages
from protocol.signed_requests import RequestClaims, Step
from protocol.sum_terms import SumStage
from protocol.topics import UPLINK_KINDS

PAGE = Path(__file__).parents[2] / "docs" / "messages.md"
ROWS = [*ROUND_ROWS, *FLEET_ROWS]


def test_the_page_says_of_every_message_what_the_code_does() -> None:
    assert PAGE.read_text(encoding="utf-8") == disclosures.page(), (
        "python -m protocol.disclosures > docs/messages.md"
    )


def test_every_stage_and_question_has_a_row_for_each_direction() -> None:
    names = [row.name for row in ROUND_ROWS]
    expected = {*map(str, SumStage), *KINDS}
    # And what goes around them: a refusal, the head of each request, and what is told to whoever is out of step.
    assert {name.removesuffix(", reply") for name in names[:-3]} == expected
    assert len(names) == 2 * len(expected) + 3
    told = {tuple(row.content) for row in ROUND_ROWS}
    for kind in (*get_args(messages.Message), RequestClaims, Step):
        wanted = tuple(field.encode_name for field in fields(kind))
        assert any(set(wanted) <= set(content) for content in told), kind


def test_every_message_of_the_fleet_has_a_row() -> None:
    assert [row.name for row in FLEET_ROWS if row.sender == "device"] == [
        kind for kind in kinds.Kind if kind in UPLINK_KINDS
    ]
    assert {row.name for row in FLEET_ROWS} == set(kinds.Kind)
    told = {row.content for row in FLEET_ROWS}
    for payload in get_args(payloads.Payload):
        assert tuple(field.encode_name for field in fields(payload)) in told, payload


def test_every_part_of_an_answer_is_explained_and_nothing_else_is() -> None:
    parts = {
        idea_of(part)
        for kind in KINDS
        for part in answer_layout(kind, parameter_count=3, tensor_count=2, feature_count=2).sizes
    }
    assert parts == ANSWER_PARTS.keys()


@pytest.mark.parametrize("name", sorted({check for row in ROWS for check in row.checks}))
def test_what_is_named_as_a_check_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    try:
        owner: object = importlib.import_module(module)
    except ModuleNotFoundError:
        module, _, holder = module.rpartition(".")
        owner = getattr(importlib.import_module(module), holder)
    assert callable(getattr(owner, attribute))


def test_only_a_masked_input_carries_windows_to_an_aggregator() -> None:
    carrying = {row.name for row in ROUND_ROWS if row.depends is not Depends.NOTHING}
    assert carrying == {f"{kind}, reply" for kind in KINDS}
    assert {row.depends for row in ROUND_ROWS} == {Depends.NOTHING, Depends.MASKED}
