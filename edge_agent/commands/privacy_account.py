"""``fedge-agent privacy``: what this device has given, as JSON and in words."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_agent.privacy.account import DeviceAccount
from edge_agent.settings import Settings

__all__ = ["account_of", "print_account"]


def account_of(settings: Settings) -> dict[str, Any]:
    """The account as JSON values; an ε of None is unlimited, a limit of None is none. A device that never took part has zeros.

    Raises:
        StorageError: the account is there but cannot be read.
    """
    limits = settings.privacy
    path = settings.paths.privacy
    given: dict[str, Any] = {"participations": 0, "noiseless": 0, "epsilon": 0.0, "noised_epsilon": 0.0}
    last_at_s = None
    if path.exists():
        with DeviceAccount(path, limits) as budget:
            spent = budget.spending()
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
        "delta": limits.delta,
        "maximum_participations": limits.maximum_participations,
        "maximum_epsilon": limits.maximum_epsilon,
        "require_noise": limits.require_noise,
    }


def print_account(account: dict[str, Any]) -> None:
    """Print the account for the owner of the device."""
    console = Console()
    left = account["maximum_participations"] - account["participations"]
    last = account["last_at_s"]
    when = "never" if last is None else datetime.fromtimestamp(last, UTC).strftime("%Y-%m-%d %H:%M UTC")
    budget = account["maximum_epsilon"]
    table = Table(title="What this device has given to training", show_header=False)
    table.add_row("answers in masked sums", f"{account['participations']}, {left} more are allowed")
    table.add_row("of them without noise", str(account["noiseless"]))
    table.add_row("last one", when)
    table.add_row("epsilon", f"{_number(account['epsilon'])} at delta {account['delta']:g}")
    table.add_row("allowed", "no limit is set (privacy.maximum_epsilon)" if budget is None else f"{budget:g}")
    console.print(table)
    if account["noiseless"]:
        console.print(
            "Answers without noise are hidden in a sum over several devices, but no epsilon describes what such a sum gives away. "
            "Set require_noise = true in [privacy] to stop giving them.",
            highlight=False,
            markup=False,
        )


def _number(epsilon: float | None) -> str:
    return "unlimited" if epsilon is None else f"{epsilon:.4g}"
