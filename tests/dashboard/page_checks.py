"""What every page keeps: it can be read by everybody, fits a phone, and text of devices is text."""

from __future__ import annotations

from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe
from chromium_viewer import DESKTOP, PHONE
from playwright.sync_api import Page

from fleet.dashboard.inlined import SCRIPTS, STYLES, inline

__all__ = ["check_accessible", "check_fits_phone", "check_landmarks", "check_no_markup", "check_page"]

_axe: Final = Axe()
_WIDEST: Final = """() => {
  const room = document.documentElement.clientWidth;
  const framed = element => {
    for (let one = element.parentElement; one && one !== document.body; one = one.parentElement)
      if (getComputedStyle(one).overflowX !== 'visible') return true;
    return false;
  };
  const wide = [...document.querySelectorAll('body *')].filter(
      one => one.getBoundingClientRect().right > room + 1 && !framed(one));
  return [document.documentElement.scrollWidth - room, wide.slice(0, 5).map(one => one.outerHTML.slice(0, 160))];
}"""
_OURS: Final = [inline(name) for name in (*SCRIPTS, *STYLES)]
_MARKUP: Final = """ours => [...document.querySelectorAll('*')].filter(element =>
    (['SCRIPT', 'STYLE', 'LINK', 'BASE'].includes(element.tagName) && !ours.includes(element.textContent) &&
        !(element.rel === 'icon' && element.href.startsWith('data:image/svg+xml,'))) ||
    [...element.attributes].some(one => one.name.startsWith('on') || one.name === 'style' ||
        /^\\s*javascript:/i.test(one.value) && ['href', 'src', 'action', 'formaction', 'xlink:href'].includes(one.name)) ||
    (element.tagName === 'IMG' && element.getAttribute('src') === 'x')
).map(element => element.outerHTML.slice(0, 200))"""


def check_page(page: Page) -> None:
    """All of the below, at a desk and at a phone, by day and by night."""
    check_no_markup(page)
    check_landmarks(page)
    check_accessible(page)
    page.emulate_media(color_scheme="dark")
    check_accessible(page, rules=["color-contrast"])
    page.set_viewport_size(PHONE)  # type: ignore[arg-type] # two integers
    check_fits_phone(page)
    page.set_viewport_size(DESKTOP)  # type: ignore[arg-type] # two integers
    page.emulate_media(color_scheme="light")


def check_accessible(page: Page, *, rules: list[str] | None = None) -> None:
    """axe-core finds nothing, with all of its rules or with `rules`."""
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    found = _axe.run(page, options=options)
    told = [
        f"{one['id']}: {one['help']}\n    {node['html'][:200]}\n    {node.get('failureSummary', '')}"
        for one in found.response["violations"]
        for node in one["nodes"][:3]
    ]
    assert not told, f"{page.url}\n" + "\n".join(told)


def check_landmarks(page: Page) -> None:
    """One main, one h1 that says what the page is, a title that begins with it, a way around."""
    assert page.locator("main").count() == 1, page.url
    assert page.locator("h1").count() == 1, page.url
    assert page.title().strip(), page.url
    assert page.locator("html[lang]").count() == 1, page.url
    assert page.locator("table th:not([scope])").count() == 0, page.url
    assert page.locator("main img:not([alt]), main svg[role=img]:not(:has(title))").count() == 0, page.url


def check_fits_phone(page: Page) -> None:
    """Nothing makes the page wider than the screen; a wide table scrolls inside its own frame."""
    overflow, wide = page.evaluate(_WIDEST)
    assert overflow <= 0, f"{page.url} is {overflow} px too wide at {page.viewport_size}: {wide}"


def check_no_markup(page: Page) -> None:
    """No text of a device became an element or an attribute that does something."""
    assert page.evaluate("() => window.fedgeOwned === undefined"), f"{page.url} ran a device's script"
    found = page.evaluate(_MARKUP, _OURS)
    assert not found, f"{page.url} has {found}"
