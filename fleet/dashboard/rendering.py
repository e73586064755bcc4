"""From values to HTML: one environment, in which text is text.

Whatever a device, a file or a person has written is escaped where it is shown. Markup comes from templates and from our own charts
(`markupsafe.Markup`), and from nowhere else.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fleet.dashboard.inlined import icon, inline
from fleet.dashboard.notices import DELETED, notice_of
from service.roles import Caller, Role, allows

__all__ = ["ago", "page", "power", "render"]

HERE: Final = Path(__file__).parent

MINUTE, HOUR, DAY = 60, 3600, 86_400


def page(
    request: Request,
    template: str,
    *,
    title: str,
    live: Sequence[str] = (),
    status: int = 200,
    **values: Any,
) -> HTMLResponse:
    """A page for whoever asks.

    Args:
        request: of a caller whom `front` knows, or of a stranger.
        template: its file.
        title: of the window, and the page's one heading.
        live: after which changes it is rendered anew for those who look at it: a kind of `fleet.changes.change.ChangeKind`, or
            ``kind:name`` for those of one rollout or device.
        status: of the answer.
        values: for the template.
    """
    request.state.live = tuple(live)
    notice = notice_of(request)
    html = render(
        template,
        title=title,
        caller=getattr(request.state, "caller", None),
        path=request.url.path,
        address=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        notice=notice,
        is_live=bool(live),
        **values,
    )
    response = HTMLResponse(html, status_code=status)
    if notice is not None:
        response.headers.append("set-cookie", DELETED)
    return response


def render(template: str, **values: Any) -> str:
    """The HTML of a template; raises where it asks for a value that was not given."""
    return _environment().get_template(template).render(**values)


def may(caller: Caller | None, role: str) -> bool:
    """Whether to offer `caller` what needs `role`; the server asks again where it is done."""
    return caller is not None and caller.role is not None and allows(caller.role, Role(role))


def when(at: float | None) -> Markup:
    """A moment, Unix seconds, as UTC; the browser's script adds the local time."""
    if at is None:
        return Markup('<span class="quiet">never</span>')
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}" data-local>{}</time>').format(
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"), moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def ago(at: float | None, now: float | None = None) -> Markup:
    """How long ago a moment was, with the moment itself for who asks."""
    if at is None:
        return Markup('<span class="quiet">never</span>')
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        _distance((time.time() if now is None else now) - at),
    )


def _distance(seconds: float) -> str:
    """How far away in words.

    >>> _distance(42), _distance(7200), _distance(-90)
    ('42 s ago', '2 h ago', 'in 2 min')
    """
    return f"{duration(abs(seconds))} ago" if seconds >= 0 else f"in {duration(abs(seconds))}"


def duration(seconds: float) -> str:
    """A time span in its largest fitting unit.

    >>> duration(0.4), duration(90), duration(5400), duration(260000)
    ('0.4 s', '2 min', '90 min', '3 days')
    """
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < MINUTE * 1.5:
        return f"{seconds:.0f} s"
    if seconds < HOUR * 2:
        return f"{seconds / MINUTE:.0f} min"
    if seconds < DAY * 2:
        return f"{seconds / HOUR:.0f} h"
    return f"{seconds / DAY:.0f} days"


_SECONDS: Final = re.compile(r"\b(\d{3,9}) s\b")


def humane(text: str) -> str:
    """A sentence of the service, its long spans in seconds in the unit that a person would take.

    >>> humane("36764 s more of its soak; 90 s")
    '10 h more of its soak; 90 s'
    """
    return _SECONDS.sub(lambda match: duration(float(match[1])), text)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, thousands apart.

    >>> number(12345), number(0.123456), number(None), number(3.0)
    ('12,345', '0.123', '–', '3')
    """
    if value is None:
        return "–"
    if float(value).is_integer() or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def power(value: float) -> str:
    """A small number, as people write it.

    >>> power(1e-6), power(2.5e-5)
    ('10⁻⁶', '2.5 · 10⁻⁵')
    """
    digits, _, exponent = f"{value:.1e}".partition("e")
    raised = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    digits = digits.removesuffix(".0")
    return raised if digits == "1" else f"{digits} · {raised}"


def share(value: float | None, digits: int = 1) -> str:
    """A share as per cent.

    >>> share(0.1234), share(1), share(None)
    ('12.3 %', '100 %', '–')
    """
    if value is None:
        return "–"
    return f"{100 * value:.{digits}f}".removesuffix("." + "0" * digits) + " %"


def size(value: float | None) -> str:
    """Bytes in the unit that fits.

    >>> size(900), size(61_234_000)
    ('900 B', '61.2 MB')
    """
    if value is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f} B"


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "ago": ago,
    "duration": duration,
    "humane": humane,
    "number": number,
    "power": power,
    "share": share,
    "size": size,
    "when": when,
}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(icon=icon, inline=inline, may=may, now=time.time)
    return environment
