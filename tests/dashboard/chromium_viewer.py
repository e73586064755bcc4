"""People at headless Chromium: what each sees and does, and every trouble that the browser notices meanwhile.

A trouble is a console message that is an error or a warning, a script's exception, a violation of the content security policy, a request to
another host, an answer of status 500 or more, or a file of a page that did not come.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from dashboard_site import DashboardSite
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, expect, sync_playwright

from service.roles import Role

__all__ = ["DESKTOP", "PHONE", "Seats", "Viewer", "await_aggregator", "chromium", "sign_in"]

DESKTOP: Final = {"width": 1280, "height": 900}
PHONE: Final = {"width": 390, "height": 844}
PATIENCE_MS: Final = 600_000.0
"""Longer than anything takes on any machine: no deadline decides a test."""

expect.set_options(timeout=PATIENCE_MS)

_WATCH_POLICY: Final = """
document.addEventListener('securitypolicyviolation', event =>
    console.error('policy violated: ' + event.violatedDirective + ' ' + event.blockedURI + ' ' + event.sample));
"""


@contextmanager
def chromium(certificate: Path) -> Iterator[Browser]:
    """Debian's Chromium, which trusts this one certificate beside its own CAs."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed: sudo apt-get install chromium")
    key = x509.load_pem_x509_certificates(certificate.read_bytes())[0].public_key()
    pin = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    options = [
        f"--ignore-certificate-errors-spki-list={base64.b64encode(pin).decode()}",
        # whatever else Chromium would look for in the world
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--disable-gpu",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


class Viewer:
    """One person at a browser of their own, signed in where `cookies` say so.

    Args:
        browser: that is running.
        site: whose pages they look at.
        cookies: as `sign_in` gave them.
        options: of Playwright's `new_context`: ``viewport``, ``color_scheme``, ``java_script_enabled``, ``timezone_id``.
    """

    def __init__(
        self, browser: Browser, site: DashboardSite, cookies: list[Any] | None = None, **options: Any
    ) -> None:
        self.site, self.troubles = site, list[str]()
        self.requests: list[Request] = []
        self._context = browser.new_context(
            base_url=site.url, **{"viewport": DESKTOP, "reduced_motion": "reduce"} | options
        )
        self._context.set_default_timeout(PATIENCE_MS)
        self._context.add_init_script(_WATCH_POLICY)
        if cookies:
            self._context.add_cookies(cookies)
        self._context.on("console", self._hear)
        self._context.on("weberror", lambda error: self.troubles.append(f"exception: {error.error}"))
        self._context.on("request", self._see_request)
        self._context.on("response", self._see_response)
        self._context.on("requestfailed", self._see_failure)
        self.page: Page = self._context.new_page()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def go(self, path: str, *, status: int = 200) -> Page:
        """Look at a page; it must answer so."""
        answer = self.page.goto(path)
        assert answer is not None
        assert answer.status == status, f"{path}: {answer.status} {self.page.inner_text('body')[:500]}"
        await_aggregator(self.page)
        return self.page

    @property
    def cookies(self) -> list[Any]:
        """What this browser keeps."""
        return self._context.cookies()

    def another_tab(self) -> Page:
        """A second page of the same person."""
        return self._context.new_page()

    def check_quiet(self) -> None:
        """Nothing went wrong so far."""
        assert not self.troubles, "\n".join(self.troubles)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.troubles.append(
                f"console {message.type} at {message.page and message.page.url}: {message.text}"
            )

    def _see_request(self, request: Request) -> None:
        self.requests.append(request)
        if not request.url.startswith((self.site.url + "/", "data:image/")):
            self.troubles.append(f"a request to somebody else: {request.url}")

    def _see_response(self, response: Response) -> None:
        if response.status >= 500:
            self.troubles.append(f"{response.url} answered {response.status}")

    def _see_failure(self, request: Request) -> None:
        # a stream ends where its page is left
        if urlsplit(request.url).path != "/live" and "ERR_ABORTED" not in (request.failure or ""):
            self.troubles.append(f"{request.url} did not come: {request.failure}")


Seats = Callable[..., Viewer]
"""What the fixture ``seat`` is: takes a site, a role and options of a `Viewer`."""


def await_aggregator(page: Page) -> None:
    """On a busy machine the aggregator may take longer than a page waits for it: look again."""
    while page.get_by_text("is not reachable: no answer within").count():
        page.wait_for_timeout(1000)
        page.reload()


def sign_in(browser: Browser, site: DashboardSite, role: Role) -> list[Any]:
    """The cookies of a person of `role` who signed in by the form."""
    with Viewer(browser, site) as viewer:
        page = viewer.go("/sign-in")
        page.get_by_label(re.compile("token", re.IGNORECASE)).fill(site.tokens[role])
        page.get_by_role("button", name=re.compile("sign in", re.IGNORECASE)).click()
        page.wait_for_url(lambda url: urlsplit(url).path != "/sign-in")
        viewer.check_quiet()
        return viewer.cookies
