"""The query language that selects devices, a subset of RSQL/FIQL, as SQL.

::

    query      = and-group *( ("," | " or ") and-group )
    and-group  = term *( (";" | " and ") term )
    term       = "(" query ")" | selector operator value
    operator   = "==" | "!="                 value may hold * for any characters
               | "=in=" | "=out="            value is (v1,v2,...)
               | "=lt=" | "=le=" | "=gt=" | "=ge="     of numbers
    selector   = id family site state claim
             | hardware reported_family release agent_state             from here on, what the device says of itself
               | online drifted in_alarm identity_conflict is_provisional is_promise_provisional
               | unjudged_windows restarts crashes commissioned_share clipped_share sight set_aside_windows obeyed
               | promised_per_1000 supported_per_1000 promise_horizon_left realised_alarms realised_windows
                 realised_low_per_1000 realised_high_per_1000 time_in_alarm_share
               | missing problems            one of the list is the value
               | "reported." label name
             | label name | "labels." label name       as it was enrolled with, or a person assigned it

``hardware=in=(rpi4,rpi5) and site!=lab``, ``agent_state==blind or sight=lt=0.5``, ``missing==*``. A device without a
label differs from every value of it, and one that never told a number is neither above nor below any. Values hold
letters, digits and ``. _ - / : + @ *`` or are quoted. The empty query selects every device.

Source: https://github.com/jirutka/rsql-parser (grammar); draft-nottingham-atompub-fiql-00.
"""

from __future__ import annotations

import difflib
import json
import math
import operator
import re
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, String, and_, false, func, not_, or_, select, true
from sqlalchemy import cast as sql_cast
from sqlalchemy.orm import InstrumentedAttribute

from fleet.errors import QuerySyntaxError
from fleet.storage.boot_tables import IdentityConflict
from fleet.storage.device_tables import Device, DeviceState
from fleet.storage.event_tables import LASTS, Anomaly
from protocol.messages.kinds import AgentState
from runtime.errors import Refused

__all__ = ["FIELDS", "device_filter"]

MAX_QUERY_CHARS: Final = 2000
MAX_SHOWN_CHARS: Final = 200
MAX_DEPTH: Final = 16
"""Nested parentheses; stops stack-exhausting queries."""

_TEXT_FIELDS: Final = {
    "id": Device.id,
    "hardware": Device.hardware,
    "family": Device.family,
    "reported_family": Device.reported_family,
    "site": Device.site,
    "claim": Device.claim,
    "state": Device.state,
    "release": Device.release,
    "agent_state": Device.agent_state,
}
_FLAG_FIELDS: Final[dict[str, ColumnElement[bool]]] = {
    "online": Device.online.expression,
    "drifted": Device.drifted.expression,
    "in_alarm": Device.id.in_(select(Anomaly.device).where(LASTS)),
    "identity_conflict": Device.id.in_(
        select(IdentityConflict.device).where(IdentityConflict.since.is_not(None))
    ),
    "is_provisional": Device.last_health["is_provisional"].as_boolean(),
    "is_promise_provisional": Device.last_health["is_promise_provisional"].as_boolean(),
}
_NUMBER_FIELDS: Final = frozenset(
    {
        "unjudged_windows",
        "restarts",
        "crashes",
        "commissioned_share",
        "clipped_share",
        "sight",
        "set_aside_windows",
        "obeyed",
        "promised_per_1000",
        "supported_per_1000",
        "promise_horizon_left",
        "realised_alarms",
        "realised_windows",
        "realised_low_per_1000",
        "realised_high_per_1000",
        "time_in_alarm_share",
    }
)
_LIST_FIELDS: Final = frozenset({"missing", "problems"})
FIELDS: Final = sorted([*_TEXT_FIELDS, *_FLAG_FIELDS, *_NUMBER_FIELDS, *_LIST_FIELDS])

_COMPARISONS: Final = {"=lt=": operator.lt, "=le=": operator.le, "=gt=": operator.gt, "=ge=": operator.ge}

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<operator>==|!=|=(?:in|out|lt|le|gt|ge)=)|(?P<sign>[();,])"""
    r"""|"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<word>[A-Za-z0-9._\-/:+@*]+))"""
)


@dataclass(frozen=True, kw_only=True)
class _Token:
    kind: str  # operator, sign, word, quoted or end
    text: str
    position: int


def device_filter(
    query: str, *, field: str = "query", where: Literal["body", "query"] = "query"
) -> ColumnElement[bool]:
    """The condition on `Device` that `query` means; it stands in `field`, in the part `where` of a request.

    Raises:
        QuerySyntaxError: it does not parse, or names something near to, but not, a field; the message says where and what
            would be valid.
    """
    try:
        return _Parser(_tokens(query)).parse() if query.strip() else true()
    except QuerySyntaxError as error:
        refused = error.refused or Refused(field=field, value=query[:MAX_SHOWN_CHARS])
        raise error.about(replace(refused, field=field, where=where)) from None


def _tokens(query: str) -> list[_Token]:
    if len(query) > MAX_QUERY_CHARS:
        raise QuerySyntaxError(f"the device query has {len(query)} characters; at most {MAX_QUERY_CHARS}")
    tokens, position = [], 0
    stripped = query.rstrip()
    while position < len(stripped):
        match = _TOKEN.match(stripped, position)
        if match is None or match.lastgroup is None:
            raise QuerySyntaxError(
                f"device query, position {position + 1}: {stripped[position : position + 10]!r} is not understood; quote values with other characters"
            )
        kind = "quoted" if match.lastgroup in {"double", "single"} else match.lastgroup
        tokens.append(
            _Token(kind=kind, text=match[match.lastgroup], position=match.start(match.lastgroup) + 1)
        )
        position = match.end()
    return [*tokens, _Token(kind="end", text="the end", position=len(stripped) + 1)]


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def parse(self) -> ColumnElement[bool]:
        condition = self._any_of()
        self._expect(self._peek().kind == "end", "';' (and), ',' (or) or the end")
        return condition

    def _any_of(self) -> ColumnElement[bool]:
        terms = [self._all_of()]
        while self._takes(",", "or"):
            terms.append(self._all_of())
        return or_(*terms)

    def _all_of(self) -> ColumnElement[bool]:
        terms = [self._term()]
        while self._takes(";", "and"):
            terms.append(self._term())
        return and_(*terms)

    def _term(self) -> ColumnElement[bool]:
        if not self._takes("("):
            return self._comparison()
        self._depth += 1
        self._expect(self._depth <= MAX_DEPTH, f"at most {MAX_DEPTH} nested parentheses")
        condition = self._any_of()
        self._expect(self._takes(")"), "')'")
        self._depth -= 1
        return condition

    def _comparison(self) -> ColumnElement[bool]:
        self._expect(self._peek().kind in {"word", "quoted"}, "a field or a label")
        selector = self._take()
        self._expect(self._peek().kind == "operator", "one of == != =in= =out= =lt= =le= =gt= =ge=")
        sign = self._take().text
        if sign in _COMPARISONS:
            return _compares(selector, sign, self._value())
        values = self._values() if sign in {"=in=", "=out="} else [self._value()]
        matches = _matches(selector, values)
        return not_(matches) if sign in {"!=", "=out="} else matches

    def _values(self) -> list[_Token]:
        self._expect(self._takes("("), "'(' and a list of values")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
        self._expect(self._takes(")"), "',' or ')'")
        return values

    def _value(self) -> _Token:
        self._expect(self._peek().kind in {"word", "quoted"}, "a value")
        return self._take()

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _takes(self, *texts: str) -> bool:
        found = self._peek().kind in {"sign", "word"} and self._peek().text in texts
        self._next += found
        return found

    def _expect(self, holds: bool, wanted: str) -> None:  # noqa: FBT001 - reads as a sentence at its calls
        if not holds:
            token = self._peek()
            raise QuerySyntaxError(
                f"device query, position {token.position}: found {token.text[:40]!r}, expected {wanted}"
            )


def _matches(selector: _Token, values: list[_Token]) -> ColumnElement[bool]:
    name = selector.text
    if name in _FLAG_FIELDS:
        wanted = {_flag(name, value) for value in values}
        return or_(*(_FLAG_FIELDS[name].is_(flag) for flag in wanted))
    if name in _NUMBER_FIELDS:
        numbers = [_number(name, value) for value in values]
        return func.coalesce(Device.last_health[name].as_float().in_(numbers), false())
    if name in _LIST_FIELDS:
        return or_(*(_lists(name, value) for value in values))
    if name in _TEXT_FIELDS:
        _check_state(name, values)
        column: ColumnElement[str] = sql_cast(_TEXT_FIELDS[name], String)
    else:
        column = _label(selector)
    # NULL differs from everything: without coalesce a missing label would make != unknown instead of true
    return func.coalesce(or_(*(_equals(column, value) for value in values)), false())


def _compares(selector: _Token, sign: str, value: _Token) -> ColumnElement[bool]:
    if selector.text not in _NUMBER_FIELDS:
        raise QuerySyntaxError(
            f"device query, position {selector.position}: {selector.text[:40]!r} is no number, so it has no {sign}; numbers are {', '.join(sorted(_NUMBER_FIELDS))}"
        ).about(_refused(selector.text, sorted(_NUMBER_FIELDS)))
    told: ColumnElement[float] = Device.last_health[selector.text].as_float()
    holds: ColumnElement[bool] = _COMPARISONS[sign](told, _number(selector.text, value))
    return func.coalesce(holds, false())


def _lists(name: str, value: _Token) -> ColumnElement[bool]:
    """Whether the list `name` of the last health holds the value: looked for in its JSON text, on either database."""
    text: ColumnElement[Any] = sql_cast(Device.last_health[name].as_json(), String)
    wanted = json.dumps(value.text)
    pattern = f"%{_pattern(wanted, wild=value.kind != 'quoted')}%"
    return func.coalesce(text.like(pattern, escape="!"), false())


def _equals(column: ColumnElement[str], value: _Token) -> ColumnElement[bool]:
    if value.kind == "quoted" or "*" not in value.text:
        return column == value.text
    return column.like(_pattern(value.text, wild=True), escape="!")


def _pattern(text: str, *, wild: bool) -> str:
    special = {"%": "!%", "_": "!_", "!": "!!"} | ({"*": "%"} if wild else {})
    return "".join(special.get(sign, sign) for sign in text)


def _number(name: str, value: _Token) -> float:
    try:
        number = float(value.text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise QuerySyntaxError(
            f"device query, position {value.position}: {name} is {value.text[:40]!r}; valid is a number, e.g. 0.5"
        )
    return number


def _check_state(name: str, values: list[_Token]) -> None:
    """Two states are easily confused: whether the fleet lets a device in, and what its agent does."""
    states: dict[str, tuple[type[DeviceState | AgentState], str]] = {
        "state": (DeviceState, "agent_state"),
        "agent_state": (AgentState, "state"),
    }
    if name not in states:
        return
    words, other = states[name]
    for value in values:
        if "*" not in value.text and value.text not in set(words):
            raise QuerySyntaxError(
                f"device query, position {value.position}: {name} is {value.text[:40]!r}; valid are {', '.join(words)} (another question is {other})"
            ).about(_refused(value.text, sorted(words)))


def _flag(name: str, value: _Token) -> bool:
    if value.text not in {"true", "false"}:
        raise QuerySyntaxError(
            f"device query, position {value.position}: {name} is {value.text[:40]!r}; valid are true and false"
        ).about(_refused(value.text, ["false", "true"]))
    return value.text == "true"


def _label(selector: _Token) -> ColumnElement[str]:
    if selector.text.startswith("reported."):
        return _of_labels(Device.reported_labels, selector.text.removeprefix("reported."))
    if selector.text == "labels.site":  # how a site was written while it was a label
        return Device.site.expression
    if selector.text.startswith("labels."):
        return _of_labels(Device.labels, selector.text.removeprefix("labels."))
    near = difflib.get_close_matches(selector.text, FIELDS, n=1, cutoff=0.8)
    if near:
        raise QuerySyntaxError(
            f"device query, position {selector.position}: {selector.text!r} is no field; did you mean {near[0]!r}? (a label of that name is written labels.{selector.text})"
        ).about(_refused(selector.text, FIELDS))
    return _of_labels(Device.labels, selector.text)


def _of_labels(labels: InstrumentedAttribute[dict[str, str]], name: str) -> ColumnElement[str]:
    text: ColumnElement[str] = labels[name].as_string()
    return text


def _refused(word: str, valid: list[str]) -> Refused:
    near = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return Refused(
        field="query", value=word[:MAX_SHOWN_CHARS], allowed=valid, nearest=near[0] if near else None
    )
