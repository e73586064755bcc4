"""Performing effects: the only place where an installation touches the disk, the network and child processes.

One method per effect, each ending in one event; safe to perform again after a kill. Every failure becomes an event too,
because a release that cannot be installed must never disturb the one that runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, assert_never

from msgspec import Struct, field

from edge_agent.errors import FleetError, InstallTimeoutError, ReleaseRefusedError, UpdateTrustError
from edge_agent.fleet_client import BundleStream
from edge_agent.installation.acceptance import (
    LEARNT_BYTES,
    Requirements,
    check_fit,
    check_request,
    check_space,
)
from edge_agent.installation.bundle_store import BundleStore
from edge_agent.installation.comparison import ShadowLimits
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
    FetchWaits,
    Opened,
    Probe,
    Probed,
    Proceed,
    Prune,
    Shadow,
    Staged,
    Stopped,
    Verified,
    Verify,
)
from edge_agent.installation.journal import Baseline, BundleRef
from edge_agent.installation.probe import ModelProbe
from edge_agent.installation.recovery import find_factory, find_staged
from edge_agent.installation.trial import TrialLimits
from edge_agent.installation.verification import ReleaseList, check_still_listed, has_hash, verify
from models.bundles import ModelBundle
from protocol.messages.kinds import InstallStep
from protocol.messages.payloads import DesiredState
from runtime.errors import FedgeError

__all__ = ["Effects", "InstallLimits", "InstallTools"]

log: Final = logging.getLogger(__name__)

ASK_AGAIN_S: Final = 60.0
"""How often it is looked whether it is the time to fetch by now."""


class InstallLimits(Struct, frozen=True, kw_only=True):
    """Every limit of an installation, by the part that keeps it (the probe is given its own)."""

    download: DownloadLimits = field(default_factory=DownloadLimits)
    trial: TrialLimits = field(default_factory=TrialLimits)
    shadow: ShadowLimits = field(default_factory=ShadowLimits)


@dataclass(frozen=True, kw_only=True)
class InstallTools:
    """What an installation needs from the world.

    Attributes:
        store: bundles on disk.
        source: where bundles come from.
        probe: tries models out.
        trust: lets releases in.
        requirements: what this device can run.
        baseline: how detection goes at present.
        free_bytes: disk space left.
        hindrance: why so many bytes are not fetched now, in a sentence, or empty.
    """

    store: BundleStore
    source: BundleSource
    probe: ModelProbe
    trust: ReleaseList
    requirements: Requirements
    baseline: Callable[[], Baseline | None]
    free_bytes: Callable[[], int]
    hindrance: Callable[[int], str] = lambda _: ""


class Effects:
    """Performs effects; remembers the last bundle that it brought into memory.

    Attributes:
        mended: the last release whose file the disk had damaged, and that was whole elsewhere; empty: none was.
    """

    def __init__(self, tools: InstallTools, limits: InstallLimits) -> None:
        self._tools = tools
        self._limits = limits
        self._opened: tuple[BundleRef, ModelBundle] | None = None
        self.mended = ""

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
        """The bundle `ref`, verified anew unless it is the one in memory; a damaged file is mended from another copy.

        Raises:
            FedgeError: it is gone, or damaged in every copy.
        """
        if self._opened is None or self._opened[0] != ref:
            store = self._tools.store
            content = store.read(ref.sha256)
            self._opened = (ref, verify(content, ref.sha256))
            try:
                if store.mend(ref.sha256, content):
                    self.mended = ref.release
                    log.warning("bundle_mended release=%s", ref.release)
            except FedgeError as error:  # it is in memory, and will be found again at the next start
                log.warning("bundle_not_mended release=%s error=%s", ref.release, error)
        return self._opened[1]

    def _perform(
        self, effect: Effect, patience: Patience, on_progress: Callable[[float], None]
    ) -> Event | None:
        event: Event | None = None
        match effect:
            case Check(desired=desired):
                event = self._check(desired)
            case Download():
                event = self._download(effect, patience, on_progress)
            case Verify():
                self._verify(effect)
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
            case Shadow(bundle=ref):
                self.open(ref)  # the loop goes on from here
            case Activate():
                event = self._activate(effect)
            case FallBack():
                event = self._fall_back(effect)
            case Prune():
                pass  # needs the journal: the installer does it
            case unknown:
                assert_never(unknown)
        return event

    def _check(self, desired: DesiredState) -> Checked:
        tools, sha256 = self._tools, desired.bundle_sha256
        check_request(desired, tools.requirements)
        # A staged bundle that the disk has since damaged is fetched again, not refused.
        is_on_disk = tools.store.has_intact(sha256)
        if not is_on_disk:
            missing = max(0, desired.bundle_bytes - tools.store.part_bytes(sha256))
            check_space(missing + LEARNT_BYTES, tools.free_bytes(), tools.requirements)
        return Checked(is_on_disk=is_on_disk)

    def _download(
        self, effect: Download, patience: Patience, on_progress: Callable[[float], None]
    ) -> Downloaded | FetchWaits | None:
        store, desired = self._tools.store, effect.desired
        fetched = store.part_bytes(desired.bundle_sha256)
        hindrance = self._tools.hindrance(max(0, desired.bundle_bytes - fetched))
        if hindrance and effect.is_deferred:
            patience.wait(ASK_AGAIN_S)
        if hindrance:
            return None if patience.is_interrupted() else FetchWaits(reason=hindrance)
        source = _Gate(self._tools, desired)
        was_resumed = fetched > 0

        def fetch() -> int | None:
            return download(
                desired,
                source,
                store,
                limits=self._limits.download,
                patience=patience,
                on_progress=on_progress,
            )

        pieces = fetch()
        if pieces is None:
            return None
        is_pieced = was_resumed or pieces > 1
        if is_pieced and not has_hash(store.read_part(desired.bundle_sha256), desired.bundle_sha256):
            # A piece may come from before a power cut or a change; only a download from byte 0 says what the fleet has.
            log.warning("resumed_download_damaged release=%s", desired.release)
            store.discard_part(desired.bundle_sha256)
            return None if fetch() is None else Downloaded()
        return Downloaded()

    def _verify(self, effect: Verify) -> None:
        desired, store = effect.desired, self._tools.store
        sha256 = desired.bundle_sha256
        self._let_in(desired, is_proven=effect.is_proven)
        content = store.read(sha256) if store.has_intact(sha256) else store.read_part(sha256)
        bundle = verify(content, sha256)
        check_fit(bundle.manifest, desired.release, self._tools.requirements)
        store.stage(sha256)
        store.mend(sha256, content)
        self._opened = (BundleRef(release=desired.release, sha256=sha256), bundle)

    def _activate(self, effect: Activate) -> Opened:
        desired = effect.desired
        if not effect.is_proven:
            # It may have judged beside the one that runs for days, and have been taken off its list meanwhile.
            check_still_listed(
                self._tools.trust, desired.release, desired.bundle_sha256, desired.bundle_bytes
            )
        self.open(BundleRef(release=desired.release, sha256=desired.bundle_sha256))
        return Opened(baseline=self._tools.baseline())

    def _let_in(self, desired: DesiredState, *, is_proven: bool) -> None:
        try:
            self._tools.trust.check_listed(desired.release, desired.bundle_sha256, desired.bundle_bytes)
        except (FleetError, UpdateTrustError) as error:
            if not is_proven:
                raise
            # It was let in once and did well here: the way back does not depend on a repository that ended, nor on a network.
            log.warning("release_not_listed_now release=%s error=%s", desired.release, error)

    def _fall_back(self, effect: FallBack) -> FellBack:
        tools, failures = self._tools, list[str]()
        factory = find_factory(tools.store, tools.trust, tools.requirements)
        brought = (factory.ref,) if factory is not None and factory.ref.sha256 not in effect.shunned else ()
        for ref in dict.fromkeys((*effect.bundles, *brought)):
            if self._opens(ref, failures):
                return FellBack(bundle=ref, failure=None)
        for found in find_staged(tools.store, tools.trust, tools.requirements, effect.shunned):
            if self._opens(found.ref, failures):
                return FellBack(bundle=found.ref, failure=None, found_bytes=found.size_bytes)
        return FellBack(bundle=None, failure="; ".join(failures) or None)

    def _opens(self, ref: BundleRef, failures: list[str]) -> bool:
        try:
            self.open(ref)
        except (FedgeError, OSError) as error:
            failures.append(f"{ref.release}: {error}")
            log.error("fallback_unusable release=%s error=%s", ref.release, error)  # noqa: TRY400 - expected, no traceback
            return False
        return True


class _Gate:
    """A `BundleSource` that hands out nothing that is not listed."""

    def __init__(self, tools: InstallTools, desired: DesiredState) -> None:
        self._tools, self._desired, self._is_listed = tools, desired, False

    def bundle(self, path: str, *, offset: int = 0) -> AbstractContextManager[BundleStream]:
        """See `BundleSource.bundle`; raises ReleaseRefusedError and UpdateTrustError, too."""
        desired = self._desired
        if not self._is_listed:
            self._tools.trust.check_listed(desired.release, desired.bundle_sha256, desired.bundle_bytes)
            self._is_listed = True
        return self._tools.source.bundle(path, offset=offset)
