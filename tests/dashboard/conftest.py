"""A browser, a fleet with a past, a fleet without one, and people who are signed in, once per pytest process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

# the worlds of both services are looked at
sys.path += [str(Path(__file__).parents[1] / name) for name in ("fleet", "aggregator")]

from chromium_viewer import Seats, Viewer, chromium, sign_in
from dashboard_site import DashboardSite, copy_of, make_empty, make_seeded, serve_site
from mosquitto_broker import LocalCertificates
from playwright.sync_api import Browser
from seeded_training import aggregator_beside

from service.roles import Role


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all pytest processes of this run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> LocalCertificates:
    """Of every site of this process."""
    return LocalCertificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def browser(certificates: LocalCertificates) -> Iterator[Browser]:
    """Headless Chromium. Of one file: Playwright's loop runs in this thread as long as it lives, and no other may begin beside it."""
    with chromium(certificates.certificate) as browser:
        yield browser


@pytest.fixture(scope="module")
def seeded(
    shared_folder: Path, certificates: LocalCertificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DashboardSite]:
    """A fleet with a past, of this file's own."""
    folder = tmp_path_factory.mktemp("site") / "seeded"
    copy_of("seeded", make_seeded, shared_folder, folder)
    with (
        aggregator_beside(folder.parent / "aggregator", certificates) as settings,
        serve_site(folder, certificates, more_settings=settings) as site,
    ):
        yield site


@pytest.fixture(scope="module")
def empty(
    shared_folder: Path, certificates: LocalCertificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DashboardSite]:
    """A fleet that nobody has used."""
    folder = tmp_path_factory.mktemp("site") / "empty"
    copy_of("empty", make_empty, shared_folder, folder)
    with serve_site(folder, certificates) as site:
        yield site


@pytest.fixture(scope="module")
def _keys_to(browser: Browser) -> Callable[[DashboardSite, Role], list[Any]]:
    known: dict[tuple[str, Role], list[Any]] = {}

    def cookies(site: DashboardSite, role: Role) -> list[Any]:
        if (site.url, role) not in known:
            known[site.url, role] = sign_in(browser, site, role)
        return known[site.url, role]

    return cookies


@pytest.fixture
def seat(browser: Browser, _keys_to: Callable[[DashboardSite, Role], list[Any]]) -> Iterator[Seats]:
    """``seat(site, Role.OPERATOR)``: a person signed in at a browser of their own, who had no trouble when the test ends."""
    with ExitStack() as leaving:
        seats: list[Viewer] = []

        def take(site: DashboardSite, role: Role = Role.OPERATOR, **options: Any) -> Viewer:
            viewer = leaving.enter_context(Viewer(browser, site, _keys_to(site, role), **options))
            seats.append(viewer)
            return viewer

        yield take
        for viewer in seats:
            viewer.check_quiet()
