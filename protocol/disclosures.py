"""What each message may depend on, who sends it, what it costs its device and what looks at it: tables that are made from the code.

    python -m protocol.disclosures > docs/messages.md

Every message between a device, its aggregator and its fleet has a row, and so has every part of every answer. Which exist, which fields they
have and how large an entry may be is read from the code; the rest is said here once. A test holds rows and messages against each other and
looks up every check that is named. Where windows are in a message it says so: in a masked sum, or in the clear, because
that message is what the device is for.

It states and guards nothing: the differential recorder (`tests/attacks`) is what would find it false.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import fields

from protocol.grids import AGES
from protocol.messages import payloads
from protocol.messages.commands import CommandResult, Commands
from protocol.messages.kinds import Kind as MessageKind
from protocol.questions import (
    ASSESS,
    COVARIANCE,
    CURVE,
    FIT,
    KINDS,
    SCALE,
    AssessQuestion,
    CovarianceQuestion,
    CurveQuestion,
    FitQuestion,
    Kind,
    ScaleQuestion,
    answer_layout,
)
from protocol.refusals import MEANINGS
from protocol.secure_answers import part_bound
from protocol.secure_sum import messages
from protocol.signed_requests import RequestClaims, Step
from protocol.sum_terms import SumStage, SumTerms

__all__ = ["ANSWER_PARTS", "FLEET_ROWS", "ROUND_ROWS", "Depends", "Row", "idea_of", "main", "page"]


class Depends(StrEnum):
    """What of a device's windows a message may depend on."""

    NOTHING = "nothing"
    MASKED = "windows, in a masked sum"
    COUNTS = "counts and rates over windows, by design"
    WINDOWS = "windows, by design"


class Row(NamedTuple):
    """A message: its name on the wire, its fields, who sends it, what it may depend on and costs, dotted names of what checks it."""

    name: str
    content: tuple[str, ...]
    sender: str
    depends: Depends
    costs: str
    checks: tuple[str, ...]


_FREE: Final = "nothing"
_ANSWER: Final = "one answer of its kind, snapshot, day and life; under noise its ε; written down before windows are touched"
_REVEAL: Final = "one reveal of its kind and snapshot, written down before a share leaves"
_PARTICIPANT: Final = "edge_agent.learner.sum_participant.SumParticipant"
_ROLE: Final = "protocol.secure_sum.device_role.DeviceRole"
_RULES: Final = "protocol.secure_sum.device_rules"
_SERVER: Final = "protocol.secure_sum.server_role.ServerRole"
_ACCOUNT: Final = "edge_agent.privacy.account.DeviceAccount"


def _names(kind: type[Struct]) -> tuple[str, ...]:
    return tuple(field.encode_name for field in fields(kind))


def _stage(name: str, kind: type[Struct], checks: tuple[str, ...], costs: str = _FREE) -> Row:
    return Row(name, _names(kind), "aggregator", Depends.NOTHING, costs, checks)


def _reply(
    name: str, kind: type[Struct], check: str, depends: Depends = Depends.NOTHING, costs: str = _FREE
) -> Row:
    return Row(f"{name}, reply", _names(kind), "device", depends, costs, (check,))


_QUESTIONS: Final[Mapping[Kind, tuple[type[Struct], tuple[str, ...]]]] = {
    FIT: (FitQuestion, ("parameters",)),
    ASSESS: (AssessQuestion, ("candidate",)),
    SCALE: (ScaleQuestion, ()),
    COVARIANCE: (CovarianceQuestion, ("scale_log_variance", "scale_freedom")),
    CURVE: (CurveQuestion, ("scale_log_variance", "scale_freedom", "correlation", "wander")),
}

ROUND_ROWS: Final[tuple[Row, ...]] = (
    Row(
        SumStage.ADVERTISE,
        (*_names(messages.Announcement), *(f"terms.{name}" for name in _names(SumTerms))),
        "aggregator",
        Depends.NOTHING,
        _FREE,
        (f"{_PARTICIPANT}.advertise", "protocol.sum_terms.decode_terms", f"{_ACCOUNT}.check"),
    ),
    _reply(SumStage.ADVERTISE, messages.Advertisement, f"{_SERVER}.accept_advertisement"),
    _stage(SumStage.SHARE, messages.CohortBook, (f"{_RULES}.check_cohort", f"{_ACCOUNT}.check_cohort")),
    _reply(SumStage.SHARE, messages.SealedShares, f"{_SERVER}.accept_shares"),
    *(
        Row(
            kind,
            (
                *_names(messages.ShareDelivery),
                *(f"question.{name}" for name in _names(_QUESTIONS[kind][0])),
                *(f"arrays.{name}" for name in _QUESTIONS[kind][1]),
            ),
            "aggregator",
            Depends.NOTHING,
            _ANSWER,
            (
                "protocol.questions.decode_question",
                "protocol.flat_vectors.decode_vector",
                f"{_ROLE}.accept",
                f"{_ACCOUNT}.charge",
            ),
        )
        for kind in KINDS
    ),
    *(_reply(kind, messages.MaskedInput, f"{_SERVER}.accept_masked_input", Depends.MASKED) for kind in KINDS),
    _stage(SumStage.CONFIRM, messages.SurvivorList, (f"{_RULES}.check_survivors",)),
    _reply(SumStage.CONFIRM, messages.SurvivorConfirmation, f"{_SERVER}.accept_confirmation"),
    _stage(
        SumStage.UNMASK,
        messages.UnmaskRequest,
        (f"{_RULES}.check_survivors", f"{_RULES}.check_confirmations", f"{_ACCOUNT}.reveal"),
        _REVEAL,
    ),
    _reply(SumStage.UNMASK, messages.RevealedShares, f"{_SERVER}.accept_revealed"),
    Row(
        "any of these, refused",
        ("code",),
        "device",
        Depends.NOTHING,
        _FREE,
        ("protocol.refusals.read_refusal",),
    ),
    Row(
        "the head of each request",
        _names(RequestClaims),
        "device",
        Depends.NOTHING,
        _FREE,
        ("aggregator.flower.door.Door.know", "protocol.signed_requests.StepCounter.take"),
    ),
    Row(
        "the head of each request, out of step",
        _names(Step),
        "aggregator",
        Depends.NOTHING,
        _FREE,
        ("protocol.signed_requests.RequestSigner.check",),
    ),
)
"""Between an aggregator and a device in a training run, in the order of a round."""

_UPLINK: Final = ("protocol.messages.envelope.decode", "fleet.ingest.judging.judge")


def _to_fleet(kind: MessageKind, payload: type[Struct], depends: Depends) -> Row:
    return Row(kind, _names(payload), "device", depends, _FREE, _UPLINK)


def _to_device(kind: MessageKind, payload: type[Struct], sender: str = "fleet", *checks: str) -> Row:
    decode = "protocol.messages.envelope.decode"
    return Row(kind, _names(payload), sender, Depends.NOTHING, _FREE, (decode, *checks))


FLEET_ROWS: Final[tuple[Row, ...]] = (
    _to_fleet(MessageKind.BIRTH, payloads.Birth, Depends.NOTHING),
    _to_fleet(MessageKind.DEATH, payloads.Death, Depends.NOTHING),
    _to_fleet(MessageKind.ANOMALY, payloads.AnomalyEvent, Depends.WINDOWS),
    _to_fleet(MessageKind.CLOSED, payloads.AnomalyClosed, Depends.COUNTS),
    _to_fleet(MessageKind.DRIFT, payloads.DriftReport, Depends.COUNTS),
    _to_fleet(MessageKind.HEALTH, payloads.Health, Depends.COUNTS),
    _to_fleet(MessageKind.REPORT, payloads.InstallReport, Depends.COUNTS),
    _to_fleet(MessageKind.RESULT, CommandResult, Depends.WINDOWS),
    _to_device(MessageKind.DESIRED, payloads.DesiredState),
    _to_device(MessageKind.COMMANDS, Commands),
    _to_device(MessageKind.ACK, payloads.Ack),
    _to_device(
        MessageKind.TRAINING,
        payloads.TrainingInvitation,
        "aggregator",
        "protocol.invitations.check_invitation",
    ),
)
"""Over MQTT, between a device and its fleet; the aggregator reads none of what devices send there."""


ANSWER_PARTS: Final[Mapping[str, str]] = {
    "update": "how far training moved the parameters, clipped to the profile's norm",
    "votes": "1 of a device that trained",
    "examples": "windows that were counted",
    "candidate_loss": "summed score of held-out windows under the candidate",
    "champion_loss": "the same under the installed release",
    "candidate_scores": "histogram of those scores",
    "champion_scores": "the same for the release",
    "candidate_probe_scores": "histogram of scores of slightly disturbed windows",
    "champion_probe_scores": "the same for the release",
    "threshold_votes": "1 in the bin of the threshold that this device would set by all its windows",
    "range_low": "in which bin a tensor's smallest value lies, one a tensor",
    "range_high": "the same for its largest",
    "feature_counts": "histogram of each feature",
    "feature_sum": "sum of each feature",
    "feature_squares": "sum of its squares",
    "scale_devices": "1 where this sensor's scale is known",
    "scale_logs": "logarithm of a sensor's variance",
    "scale_squares": "its square",
    "scale_uncertainty": "how uncertain it is",
    "spread_devices": "1 of a device with enough windows",
    "correlation": "how sensors vary together",
    "wander": "how their means wander together",
    "spread_squares": "mean square of the correlations",
    "spread_error": "how uncertain they are",
    "age_devices": "1 of a device that has been this age",
    "age_windows": "windows that a detector of this age judged",
    "openings": "how often it would have opened an alarm, at each level",
    "in_alarm": "windows in alarm, at each level",
    "openings_squares": "squares of the openings, per window",
}
"""What an entry says; the last five once for each age of a detector."""

_P, _T, _F = 58, 5, 6
_N: Final = 10_000


def page() -> str:
    """The tables as a page of docs/."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Messages"
    yield ""
    yield "Who may send what, what of a device's windows it may depend on, what it costs the device, and what checks it."
    yield "Made by `python -m protocol.disclosures`; a test holds it against the code."
    yield ""
    yield "## In a training run"
    yield ""
    yield "Between an aggregator and a device, over Flower. A device's replies leave on a grid of times. The first column is"
    yield "the Flower message type. What is masked is uniform words to everybody but the whole cohort together. Besides, that"
    yield "a device joins at all says that it has at least the invitation's `minimum_windows` windows."
    yield ""
    yield from _table(ROUND_ROWS)
    yield ""
    yield "A refusal is one of these words and nothing else; it is decided before windows are touched:"
    yield ""
    yield "| code | what it means |"
    yield "|---|---|"
    yield from (f"| {code} | {words} |" for code, words in MEANINGS.items())
    yield ""
    yield "## What answers are made of"
    yield ""
    yield f"Every entry adds up over devices. Bounds are of one device with at most {_N:,} windows, without noise; entries of a"
    yield f"model of {_P} parameters, {_T} tensors and {_F} features. A blank step is as fine as the words allow."
    yield ""
    yield "| kind | part | entries | at most | in steps of | what it says |"
    yield "|---|---|---|---|---|---|"
    yield from _part_rows()
    yield ""
    yield "## With the fleet"
    yield ""
    yield "Over MQTT. What is *by design* is what the device is for; its owner may leave the windows out of it"
    yield "(`[privacy] send_windows`). The aggregator reads none of it."
    yield ""
    yield from _table(FLEET_ROWS)


def _table(rows: Iterable[Row]) -> Iterator[str]:
    yield "| message | from | may depend on | costs | fields | checked by |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        content, checks = (", ".join(f"`{each}`" for each in many) for many in (row.content, row.checks))
        yield f"| `{row.name}` | {row.sender} | {row.depends} | {row.costs} | {content} | {checks} |"


def _part_rows() -> Iterator[str]:
    for kind in KINDS:
        layout = answer_layout(kind, parameter_count=_P, tensor_count=_T, feature_count=_F)
        for name, size in layout.sizes.items():
            bound = part_bound(name, maximum_examples=_N)
            step = "" if bound.resolution is None else f"{bound.resolution:g}"
            yield f"| `{kind}` | `{name}` | {size} | {bound.bound:g} | {step} | {ANSWER_PARTS[idea_of(name)]} |"


def idea_of(part: str) -> str:
    """The name of a part without a detector's age.

    >>> idea_of("openings_squares_64")
    'openings_squares'
    """
    stem, _, age = part.rpartition("_")
    return stem if age in {str(each) for each in AGES} else part


def main() -> None:
    """Print the page."""
    sys.stdout.write(page())


if __name__ == "__main__":
    main()
