"""What holds for every test: which may be skipped, and when one counts as hanging.

In CI nothing may be missing: a test that skips itself there fails, with its reason. The one exception are the recordings,
which cannot be had everywhere (`recordings`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from command_line import logging_as_before
from hypothesis import HealthCheck, settings
from recordings import DATA
from waiting import slowness

HANGS_AFTER_S = 600.0
"""Seconds of a quiet machine, ten times what the slowest test takes: a guard against hanging, never a budget."""
# Hypothesis measures in milliseconds of the wall, and a shared machine may take ten times as many.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
_SLOW_FILE = re.compile(r"^pytestmark = .*\bslow\b", re.MULTILINE)
NOTHING_MAY_BE_MISSING = bool(os.environ.get("CI"))


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "_env_timeout") and not config.getoption("timeout"):
        config._env_timeout = (
            HANGS_AFTER_S * slowness()
        )  # pytest-timeout's own place for what the command line left open


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # A file that is slow as a whole is not even imported: TensorFlow alone costs as much as a thousand tests of rules.
    if "not slow" in config.option.markexpr and collection_path.name.startswith("test_"):
        return bool(_SLOW_FILE.search(collection_path.read_text(encoding="utf-8"))) or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What takes longest begins first, so that no worker is left alone with it at the end.
    items.sort(
        key=lambda item: -("simulations" in item.path.parts) - (item.get_closest_marker("slow") is not None)
    )


@pytest.fixture(autouse=True)
def logs_go_where_they_went_before() -> Iterator[None]:
    """A command that a test calls says how its process logs: to an output that is gone when the next test's service logs."""
    with logging_as_before():
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("recordings"):
        for folder in mark.args:
            if not (DATA / folder).is_dir():
                pytest.skip(f"no {DATA / folder}: set FEDGE_DATA to the folder that holds {folder}/")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # Only a missing recording may be skipped, and that is seen before the test begins.
    if report.when != "setup" or item.get_closest_marker("recordings") is None:
        _forbid_skipping(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skipping(report)
    return report


def _forbid_skipping(report: pytest.TestReport | pytest.CollectReport) -> None:
    if NOTHING_MAY_BE_MISSING and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be missing (CI is set): {report.longrepr}"
