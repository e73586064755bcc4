"""``fedge-aggregator verify-release``: whether a release claims what the ledger holds, line by line.

Needs two files and a public key, and no server: an auditor runs it on copies. The ledger is opened for reading alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aggregator.commands.privacy import claimed_manifest
from aggregator.privacy.ledger import Ledger
from aggregator.privacy.verification import Finding, verify
from protocol.privacy_claim import Mode
from runtime.errors import SettingsError

__all__ = ["VerifiedRelease", "verified_release"]


@dataclass(frozen=True, kw_only=True)
class VerifiedRelease:
    """What was found, statement by statement."""

    release: str
    findings: Sequence[Finding]

    @property
    def agrees(self) -> bool:
        """Whether the ledger bears everything out."""
        return all(finding.agrees for finding in self.findings)

    @property
    def text(self) -> str:
        """For people."""
        wrong = sum(not finding.agrees for finding in self.findings)
        verdict = (
            f"The ledger bears out what {self.release} claims."
            if not wrong
            else f"{self.release} claims what the ledger does not bear out: {wrong} of {len(self.findings)} statements."
        )
        return "\n".join([*map(str, self.findings), verdict])


def verified_release(bundle: Path, release_key: Path, ledger: Path) -> VerifiedRelease:
    """Hold a release against a ledger.

    Raises:
        SettingsError: the file or key cannot be read, the signature is not this key's, or the release carries no claim, or that of a
            family in plain.
        LedgerError: there is no ledger, or it is damaged; says at which entry.
    """
    manifest, claim = claimed_manifest(bundle, release_key)
    if claim.mode is Mode.PLAIN:
        raise SettingsError(
            f"{manifest.release} was learned from answers without masks: the aggregator saw each of them, no ledger was kept, and there is"
            " nothing to verify"
        )
    held = Ledger(ledger, read_only=True)
    try:
        digest = held.digest_after(claim.ledger_entries)
    finally:
        held.close()
    return VerifiedRelease(release=manifest.release, findings=verify(manifest, claim, held.entries, digest))
