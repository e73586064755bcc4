"""Performing effects: the only place where an installation touches the disk, the network and child processes.

One method per effect, each ending in one event; safe to perform again after a kill. Every failure becomes an event too,
because a release that cannot be installed must never disturb the one that runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

from msgspec import Struct, field

from edge_agent.errors import InstallTimeoutError, ReleaseRefusedError
from edge_agent.installation.acceptance import Requirements, check_fit, check_request, check_space
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.download import BundleSource, DownloadLimits, Patience, download
from edge_agent.installation.events import (
    Activate,
    Check,
    Checked,
    Download,
    Downloaded,
    Effect,
    Event,
    FallBack,
    FellBack,
    Opened,
    Probe,
    Probed,
    Proceed,
    Prune,
    Staged,
    Stopped,
    Verified,
    Verify,
)
from edge_agent.installation.journal import Baseline, BundleRef
from edge_agent.installation.probe import ModelProbe
from edge_agent.installation.trial import TrialLimits
from edge_agent.installation.verification import has_hash, verify
from models.bundles import ModelBundle
from protocol.bundle import TrustedKeys
from protocol.messages.kinds import InstallStep
from protocol.messages.payloads import DesiredState
from runtime.errors import FedgeError

__all__ = ["Effects", "InstallLimits", "InstallTools"]

log: Final = logging.getLogger(__name__)


class InstallLimits(Struct, frozen=True, kw_only=True):
    """Every limit of an installation, by the part that keeps it (the probe is given its own)."""

    download: DownloadLimits = field(default_factory=DownloadLimits)
    trial: TrialLimits = field(default_factory=TrialLimits)


@dataclass(frozen=True, kw_only=True)
class InstallTools:
    """What an installation needs from the world.

    Attributes:
        store: bundles on disk.
        source: where bundles come from.
        probe: tries models out.
        keys: the pinned release keys.
        requirements: what this device can run.
        baseline: how detection goes at present.
        free_bytes: disk space left.
    """

    store: BundleStore
    source: BundleSource
    probe: ModelProbe
    keys: TrustedKeys
    requirements: Requirements
    baseline: Callable[[], Baseline | None]
    free_bytes: Callable[[], int]


class Effects:
    """Performs effects; remembers the last bundle that it brought into memory."""

    def __init__(self, tools: InstallTools, limits: InstallLimits) -> None:
        self._tools = tools
        self._limits = limits
        self._opened: tuple[BundleRef, ModelBundle] | None = None

    def perform(
        self, effect: Effect, patience: Patience, on_progress: Callable[[float], None]
    ) -> Event | None:
        """Do it and say what came of it; None where there is nothing to say, or a newer request interrupted."""
        try:
            return self._perform(effect, patience, on_progress)
        except ReleaseRefusedError as error:
            return Stopped(step=InstallStep.REJECTED, reason=str(error))
        except InstallTimeoutError as error:
            return Stopped(step=InstallStep.TIMED_OUT, reason=str(error))
        except (FedgeError, OSError) as error:
            return Stopped(step=InstallStep.FAILED, reason=str(error))
        except Exception as error:
            # A defect of ours in the installer must not end detection; the traceback goes to the log.
            log.exception("installer_defect effect=%s", type(effect).__name__)
            return Stopped(step=InstallStep.FAILED, reason=f"{type(error).__name__}: {error}")

    def open(self, ref: BundleRef) -> ModelBundle:
        """The bundle `ref`, verified anew unless it is the one in memory.

        Raises:
            FedgeError: it is gone, damaged, or not trusted any more.
        """
        if self._opened is None or self._opened[0] != ref:
            bundle = verify(self._tools.store.read(ref.sha256), ref.sha256, self._tools.keys)
            self._opened = (ref, bundle)
        return self._opened[1]

    def _perform(
        self, effect: Effect, patience: Patience, on_progress: Callable[[float], None]
    ) -> Event | None:
        event: Event | None = None
        match effect:
            case Check(desired=desired):
                event = self._check(desired)
            case Download(desired=desired):
                if self._download(desired, patience, on_progress):
                    event = Downloaded()
            case Verify(desired=desired):
                self._verify(desired)
                event = Verified()
            case Proceed():
                event = Staged()
            case Probe(bundle=ref):
                content = self._tools.store.read(ref.sha256)
                result = self._tools.probe.run(ref.release, content, patience.is_interrupted)
                if result is not None:
                    log.info(
                        "release_probed release=%s latency_p50_us=%.1f", ref.release, result.latency_p50_us
                    )
                    event = Probed()
            case Activate(bundle=ref):
                self.open(ref)
                event = Opened(baseline=self._tools.baseline())
            case FallBack(bundles=bundles):
                event = self._fall_back(bundles)
            case Prune():
                pass  # needs the journal: the installer does it
            case unknown:
                assert_never(unknown)
        return event

    def _check(self, desired: DesiredState) -> Checked:
        tools, sha256 = self._tools, desired.bundle_sha256
        check_request(desired, tools.requirements)
        # A staged bundle that the disk has since damaged is fetched again, not refused.
        is_on_disk = tools.store.has(sha256) and has_hash(tools.store.read(sha256), sha256)
        if not is_on_disk:
            missing = max(0, desired.bundle_bytes - tools.store.part_bytes(sha256))
            check_space(missing, tools.free_bytes(), tools.requirements)
        return Checked(is_on_disk=is_on_disk)

    def _download(
        self, desired: DesiredState, patience: Patience, on_progress: Callable[[float], None]
    ) -> bool:
        store, sha256 = self._tools.store, desired.bundle_sha256
        was_resumed = store.part_bytes(sha256) > 0
        is_complete = self._fetch(desired, patience, on_progress)
        if is_complete and was_resumed and not has_hash(store.read_part(sha256), sha256):
            # The first half may come from before a power cut; only a download from byte 0 says what the fleet has.
            log.warning("resumed_download_damaged release=%s", desired.release)
            store.discard_part(sha256)
            return self._fetch(desired, patience, on_progress)
        return is_complete

    def _fetch(self, desired: DesiredState, patience: Patience, on_progress: Callable[[float], None]) -> bool:
        tools, limits = self._tools, self._limits.download
        return download(
            desired, tools.source, tools.store, limits=limits, patience=patience, on_progress=on_progress
        )

    def _verify(self, desired: DesiredState) -> None:
        store, sha256 = self._tools.store, desired.bundle_sha256
        content = store.read(sha256) if store.has(sha256) else b""
        if not has_hash(content, sha256):
            content = store.read_part(sha256)
        bundle = verify(content, sha256, self._tools.keys)
        check_fit(bundle.manifest, desired, self._tools.requirements)
        store.stage(sha256)
        self._opened = (BundleRef(release=desired.release, sha256=sha256), bundle)

    def _fall_back(self, bundles: tuple[BundleRef, ...]) -> FellBack:
        failures: list[str] = []
        for ref in bundles:
            try:
                self.open(ref)
            except (FedgeError, OSError) as error:
                failures.append(f"{ref.release}: {error}")
                log.error("fallback_unusable release=%s error=%s", ref.release, error)  # noqa: TRY400 - expected, no traceback
            else:
                return FellBack(bundle=ref, failure=None)
        return FellBack(bundle=None, failure="; ".join(failures) or None)
