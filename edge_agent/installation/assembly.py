"""Builds the installer of a device out of its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_agent.installation.acceptance import Requirements
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.download import BundleSource
from edge_agent.installation.effects import InstallLimits, InstallTools
from edge_agent.installation.inbox import Inbox
from edge_agent.installation.installer import Installer
from edge_agent.installation.journal_file import JournalFile
from edge_agent.installation.probe import ChildProbe, ModelProbe
from edge_agent.installation.trial import WindowRecord
from edge_agent.installation.verification import ReleaseList

__all__ = ["open_installer"]


def open_installer(
    *,
    journal_file: Path,
    bundles: Path,
    trust: ReleaseList,
    requirements: Requirements,
    source: BundleSource,
    hindrance: Callable[[int], str] = lambda _: "",
    limits: InstallLimits | None = None,
    probe: ModelProbe | None = None,
) -> Installer:
    """Build the installer of a device from its files; recovers, so that `Installer.active` is right at once.

    Args:
        journal_file: ``install.json``.
        bundles: directory of bundles; created if missing.
        trust: lets releases in.
        requirements: what this device can run.
        source: where bundles come from: a `edge_agent.fleet_client.FleetClient`.
        hindrance: why so many bytes are not fetched now, or empty.
        limits: of download and trial.
        probe: how models are tried out; default a child process.

    Raises:
        StorageError: another agent uses the directory, or the disk cannot be read or written.
    """
    store, record = BundleStore(bundles), WindowRecord()
    tools = InstallTools(
        store=store,
        source=source,
        probe=probe or ChildProbe(),
        trust=trust,
        requirements=requirements,
        baseline=record.baseline,
        free_bytes=store.free_bytes,
        hindrance=hindrance,
    )
    return Installer(
        journal_file=JournalFile(journal_file),
        tools=tools,
        record=record,
        limits=limits or InstallLimits(),
        inbox=Inbox(),
    )
