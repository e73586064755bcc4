"""``fedge-aggregator privacy``: what rounds have cost, for a person or as JSON; and whether a release's claim is the ledger's.

Reads the ledger only, also while the aggregator runs. With a release it shows the claim that was signed into it, and checks
that the ledger still begins with the very entries the claim was made from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from aggregator.errors import LedgerDamagedError
from aggregator.family_folder import Families
from aggregator.privacy.accounts import LEDGER_FILE, PrivacyAccounts
from aggregator.privacy.claim_text import explain
from aggregator.privacy.ledger import Ledger
from aggregator.release_keys import public_key_path, read_public_key
from aggregator.settings import load_aggregator_settings
from protocol.bundle import TrustedKeys, open_bundle
from protocol.errors import BundleError
from protocol.manifest import Manifest
from protocol.names import FamilyName
from protocol.privacy_claim import PrivacyClaim
from runtime.errors import SettingsError

__all__ = [
    "ShownClaim",
    "claim_of_family",
    "claim_of_release",
    "claimed_manifest",
    "require_in_ledger",
    "shown_claim",
]


@dataclass(frozen=True, kw_only=True)
class ShownClaim:
    """A claim and what it is about."""

    title: str
    claim: PrivacyClaim

    @property
    def text(self) -> str:
        """For people."""
        return explain(self.claim, self.title)


def shown_claim(
    config: Path | None, family: str | None, release: Path | None, release_key: Path | None
) -> ShownClaim:
    """What the command's options ask for.

    Raises:
        SettingsError: options that do not go together; says which to add.
        LedgerError: see `claim_of_family`, `require_in_ledger`.
    """
    settings = None if config is None else load_aggregator_settings(config)
    if release is not None:
        key = release_key or (None if settings is None else public_key_path(settings.signing_key))
        if key is None:
            raise SettingsError("--release needs --release-key (the public key to trust), or --config")
        shown = claim_of_release(release, key)
        if settings is not None:
            require_in_ledger(shown.claim, settings.data_dir)
            checked = f"{shown.title}, borne out by the ledger in {settings.data_dir}"
            return ShownClaim(title=checked, claim=shown.claim)
        return shown
    if settings is None:
        raise SettingsError("name --config aggregator.toml for the ledger, or --release with --release-key")
    families = Families(settings.families, settings.families_dir)
    if family is None and len(families) != 1:
        raise SettingsError(f"name a --family: {', '.join(sorted(families)) or 'there is none yet'}")
    return claim_of_family(settings.data_dir, family or next(iter(families)))


def claim_of_family(data_dir: Path, family: str) -> ShownClaim:
    """What the rounds of a family have cost until now.

    Raises:
        LedgerError: no ledger, a damaged one, or none of this family's rounds in it.
    """
    accounts = PrivacyAccounts(data_dir / LEDGER_FILE, {}, now=time.time, read_only=True)
    try:
        name = FamilyName(family)
        run = accounts.latest_run(name)
        return ShownClaim(title=f"family {family}, up to run {run}", claim=accounts.claim(name, run))
    finally:
        accounts.close()


def claim_of_release(bundle: Path, release_key: Path) -> ShownClaim:
    """The claim that was signed into a release; raises as `claimed_manifest`."""
    manifest, claim = claimed_manifest(bundle, release_key)
    return ShownClaim(title=f"release {manifest.release}", claim=claim)


def claimed_manifest(bundle: Path, release_key: Path) -> tuple[Manifest, PrivacyClaim]:
    """A release's manifest and the claim in it.

    Raises:
        SettingsError: the file or key cannot be read, the signature is not this key's, or the release carries no claim.
    """
    trusted = TrustedKeys([read_public_key(release_key, "--release-key")])
    try:
        manifest = open_bundle(bundle.read_bytes(), trusted).manifest
    except OSError as error:
        raise SettingsError(f"cannot read the release {bundle}: {error.strerror or error}") from None
    except BundleError as error:
        raise SettingsError(f"the release {bundle} cannot be trusted: {error}") from None
    if manifest.provenance.privacy is None:
        raise SettingsError(
            f"release {manifest.release} carries no privacy claim; releases made from recordings (initial-release) learned from no device"
        )
    return manifest, manifest.provenance.privacy


def require_in_ledger(claim: PrivacyClaim, data_dir: Path) -> None:
    """Check that the ledger begins with the entries the claim was made from.

    Raises:
        LedgerDamagedError: it does not: entries were cut off, or it is another ledger.
        LedgerError: there is no ledger, or it is damaged.
    """
    ledger = Ledger(data_dir / LEDGER_FILE, read_only=True)
    try:
        found = ledger.digest_after(claim.ledger_entries)
    finally:
        ledger.close()
    if found != claim.ledger_sha256:
        raise LedgerDamagedError(
            f"the claim was made from a ledger whose entry {claim.ledger_entries} has the digest {claim.ledger_sha256}, this one has "
            f"{found or 'fewer entries'}: it is another ledger, or entries were cut off; restore it from a backup"
        )
