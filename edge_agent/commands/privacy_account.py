"""``fedge-agent privacy``: what this device has given and may still give, as JSON and in words; and whether a release's claim agrees."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edge_agent.errors import ReleaseRefusedError
from edge_agent.privacy.account import DeviceAccount
from edge_agent.privacy.limits import OwnerLimits
from edge_agent.privacy.release_check import Finding, Verdict, check_release
from edge_agent.privacy.review import Given, Review
from edge_agent.settings import Settings
from edge_agent.trusted_clock import TrustedClock
from edge_agent.update_trust import open_trust
from protocol.bundle import open_bundle, open_listed
from protocol.errors import BundleError
from protocol.manifest import Manifest
from runtime.durable_files import read_bytes
from runtime.errors import StorageError
from runtime.printable import printable

__all__ = ["account_of", "print_account", "print_findings", "release_findings"]

_COLOURS: Final = {Verdict.AGREES: "green", Verdict.DIFFERS: "red", Verdict.UNKNOWN: "yellow"}


def account_of(settings: Settings) -> dict[str, Any]:
    """The account as JSON values; an ε of None is unlimited, a limit of None is none. A device that never took part has zeros.

    Raises:
        StorageError: the account is there but cannot be read.
    """
    limits = settings.privacy
    given: dict[str, Any] = {"participations": 0, "noiseless": 0, "epsilon": 0.0, "noised_epsilon": 0.0}
    last_at_s = review = None
    if _took_part(settings):
        with _opened(settings) as account:
            spent, review = account.spending(), account.review()
        last_at_s = spent.last_at_s
        given = {
            "participations": spent.participations,
            "noiseless": spent.noiseless,
            "epsilon": spent.epsilon if math.isfinite(spent.epsilon) else None,
            "noised_epsilon": spent.noised_epsilon,
        }
    return {
        **given,
        "last_at_s": last_at_s,
        **_policy(review),
        **{name: getattr(limits, name) for name in OwnerLimits.__struct_fields__},
        "maximum_epsilon": limits.epsilon_cap,
    }


def print_account(account: dict[str, Any]) -> None:
    """Print the account for the owner of the device."""
    console = Console()
    left = account["maximum_participations"] - account["participations"]
    budget = account["maximum_epsilon"]
    table = Table(title="What this device has given to training", show_header=False)
    table.add_row("answers in masked sums", f"{account['participations']}, {left} more are allowed")
    table.add_row("of them without noise", str(account["noiseless"]))
    table.add_row("last one", _date(account["last_at_s"]))
    table.add_row("within 24 h", f"{account['answers_today']} of {account['answers_per_day']}")
    table.add_row("epsilon", f"{_number(account['epsilon'])} at delta {account['delta']:g}")
    table.add_row("allowed", "no limit is set (privacy.maximum_epsilon)" if budget is None else f"{budget:g}")
    if account["require_noise"]:
        table.add_row("noise", f"at least {account['minimum_noise_multiplier']:g} times the clip")
    _add_snapshot(table, account)
    console.print(table)
    if (refused := account["last_refusal"]) is not None:
        console.print(
            printable(f"Declined last ({refused['code']}, {_date(refused['at_s'])}): {refused['words']}"),
            highlight=False,
            markup=False,
        )
    if account["noiseless"]:
        console.print(
            "Answers without noise are hidden in a sum over several devices, but no epsilon describes what such a sum gives away. "
            "Set require_noise = true in [privacy] to stop giving them.",
            highlight=False,
            markup=False,
        )


def release_findings(settings: Settings, file: Path) -> tuple[Manifest, list[Finding]]:
    """Hold the claim of a release against this device's account.

    Args:
        settings: of this device.
        file: the release, a ``.fedge`` bundle.

    Raises:
        StorageError: the file or the account cannot be read.
        ReleaseRefusedError: it is no bundle, or none that the signed repository lists, nor one that a key of this family's signed.
    """
    content = read_bytes(file)
    if content is None:
        raise StorageError(f"there is no release {file}; name a .fedge file")
    try:
        manifest = _trusted_manifest(settings, content)
    except BundleError as error:
        raise ReleaseRefusedError(f"{file} claims nothing: {error}") from None
    given: tuple[Given, ...] = ()
    if _took_part(settings):
        with _opened(settings) as account:
            given = account.given()
    return manifest, check_release(manifest, given, settings.family)


def _trusted_manifest(settings: Settings, content: bytes) -> Manifest:
    trust = open_trust(settings, TrustedClock(settings.paths.clock), None)
    sha256 = hashlib.sha256(content).hexdigest()
    manifest = open_listed(content, sha256).manifest
    if not trust.has_listed(manifest.release, sha256, len(content)):
        open_bundle(content, trust.release_keys())
    return manifest


def print_findings(manifest: Manifest, findings: list[Finding]) -> None:
    """Print them for the owner of the device."""
    console = Console()
    table = Table(
        title=f"What {escape(manifest.release)} claims, and what this device knows", show_header=False
    )
    for finding in findings:
        table.add_row(
            f"[{_COLOURS[finding.verdict]}]{finding.verdict.value}[/]", escape(printable(finding.words))
        )
    console.print(table)


def _took_part(settings: Settings) -> bool:
    """Whether there is an account, or should be one: looking makes none, and a lost one is told as such."""
    return settings.paths.privacy.exists() or any(settings.paths.snapshot.glob("snapshot-*"))


def _opened(settings: Settings) -> DeviceAccount:
    return DeviceAccount(settings.paths.privacy, settings.privacy, snapshots=settings.paths.snapshot)


def _policy(review: Review | None) -> dict[str, Any]:
    """What of the query policy is used up; a device that never took part has a snapshot of None."""
    if review is None:
        return {"answers_today": 0, "snapshot": None, "last_refusal": None}
    taken = review.snapshot
    snapshot = {
        "number": taken.number,
        "windows": taken.rows,
        "taken_at_s": taken.at_s if taken.number else None,
        "allowance_age_s": review.allowance_age_s,
        "asked": [
            {
                "kind": one.kind,
                "answered": one.answered,
                "answers_left": max(one.answers_allowed - one.answered, 0),
                "revealed": one.revealed,
                "reveals_left": max(one.reveals_allowed - one.revealed, 0),
            }
            for one in review.asked
        ],
        "companions": list(review.companions),
    }
    refused = review.refused
    return {
        "answers_today": review.answers_today,
        "snapshot": snapshot,
        "last_refusal": None
        if refused is None
        else {"at_s": refused.at_s, "code": refused.code, "words": refused.words},
    }


def _add_snapshot(table: Table, account: dict[str, Any]) -> None:
    snapshot = account["snapshot"]
    if snapshot is None or not snapshot["number"]:
        table.add_row("snapshot", "none yet")
        return
    table.add_row(
        "snapshot",
        f"number {snapshot['number']}, {snapshot['windows']} windows, taken {_date(snapshot['taken_at_s'])}; "
        f"what was asked counts for {_duration(snapshot['allowance_age_s'])} now",
    )
    table.add_row(
        "a new one",
        f"after {account['snapshot_windows']} new windows and {_duration(account['snapshot_every_s'])}",
    )
    for one in snapshot["asked"]:
        table.add_row(
            f"asked of it: {one['kind']}",
            f"answered {one['answered']}, {one['answers_left']} more; revealed {one['revealed']}, {one['reveals_left']} more",
        )
    companions = ", ".join(snapshot["companions"]) or "nobody yet"
    table.add_row("trains with", companions if account["fixed_companions"] else "whoever is there")


def _duration(seconds: float) -> str:
    for unit_s, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.3g} {unit}"
    return f"{seconds:.3g} s"


def _date(at_s: float | None) -> str:
    return "never" if at_s is None else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _number(epsilon: float | None) -> str:
    return "unlimited" if epsilon is None else f"{epsilon:.4g}"
