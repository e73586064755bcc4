"""What the server works out between two stages: the cohort and its graph, who can still be unmasked, what each device gets next.

Pure rules. The messages they write are the ones `device_rules` checks on the other side.

Not here: the order of the stages and the running total (`server_role`), taking masks off (`unmasking`).

Source: Bell et al., CCS 2020, figure 2; Bonawitz et al., CCS 2017, figure 4.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from protocol.names import DeviceId
from protocol.secure_sum.advertisements import advertisement_digest
from protocol.secure_sum.device_rules import named
from protocol.secure_sum.errors import VoidRoundError
from protocol.secure_sum.graph import Cohort
from protocol.secure_sum.masks import agree_on_generator
from protocol.secure_sum.messages import (
    Advertisement,
    Announcement,
    CohortBook,
    SealedShare,
    ShareDelivery,
    SurvivorConfirmation,
    UnmaskRequest,
    pack_positions,
)
from protocol.secure_sum.planner import PlanRequest, plan

__all__ = [
    "ServerPolicy",
    "check_enough",
    "check_removable",
    "cohort_books",
    "positions_of",
    "settle_cohort",
    "share_deliveries",
    "supported_sharers",
    "unmask_requests",
]


@dataclass(frozen=True, kw_only=True)
class ServerPolicy:
    """What the server plans for; devices have floors of their own (`device_role.DevicePolicy`).

    Attributes:
        minimum_cohort: below this many survivors the round is void.
        corrupt_fraction: share of the cohort assumed to collude (γ).
        dropout_fraction: share of the cohort that may vanish (δ).
        secrecy_bits: σ of `planner.plan`.
        correctness_bits: η of `planner.plan`.
        split_view_safe: thresholds that hold against a server that tells neighbours different stories.
    """

    minimum_cohort: int = 3
    corrupt_fraction: float = 0.2
    dropout_fraction: float = 0.1
    secrecy_bits: int = 40
    correctness_bits: int = 20
    split_view_safe: bool = False


def settle_cohort(
    announcement: Announcement, advertisements: Mapping[DeviceId, Advertisement], policy: ServerPolicy
) -> Cohort:
    """The cohort of exactly those who advertised, with the smallest plan that withstands the policy.

    Raises:
        InfeasiblePlanError: there is none for so many devices; says what to change.
    """
    return Cohort(
        session=announcement.session,
        round_number=announcement.round_number,
        digests={device: advertisement_digest(message) for device, message in advertisements.items()},
        plan=plan(
            PlanRequest(
                cohort=len(advertisements),
                corrupt_fraction=policy.corrupt_fraction,
                dropout_fraction=policy.dropout_fraction,
                secrecy_bits=policy.secrecy_bits,
                correctness_bits=policy.correctness_bits,
                split_view_safe=policy.split_view_safe,
            )
        ),
        generator=agree_on_generator(message.generators for message in advertisements.values()),
    )


def cohort_books(
    cohort: Cohort, advertisements: Mapping[DeviceId, Advertisement]
) -> dict[DeviceId, CohortBook]:
    """For each device the cohort and its own neighbours' advertisements."""
    digests = b"".join(cohort.digests[device] for device in cohort.ids)
    return {
        device: CohortBook(
            session=cohort.session,
            round_number=cohort.round_number,
            degree=cohort.plan.degree,
            threshold=cohort.plan.threshold,
            generator=cohort.generator,
            cohort=cohort.ids,
            digests=digests,
            neighbours=tuple(advertisements[peer] for peer in cohort.neighbours(device)),
        )
        for device in cohort.ids
    }


def supported_sharers(cohort: Cohort, sharers: Collection[DeviceId]) -> frozenset[DeviceId]:
    """The largest set of sharers of which everyone has a threshold of holders within the set.

    Whoever has fewer could never be unmasked and would refuse; it counts as not having shared.
    """
    kept = frozenset(sharers)
    while True:
        supported = frozenset(
            device
            for device in kept
            if len(kept.intersection(cohort.holders(device))) >= cohort.plan.threshold
        )
        if supported == kept:
            return kept
        kept = supported


def share_deliveries(
    cohort: Cohort, sharers: frozenset[DeviceId], seals: Mapping[DeviceId, Mapping[DeviceId, bytes]]
) -> dict[DeviceId, ShareDelivery]:
    """For each sharer the seals its sharing neighbours made for it; `seals[sender][recipient]`."""
    bits = positions_of(cohort, sharers)
    return {
        device: ShareDelivery(
            session=cohort.session,
            round_number=cohort.round_number,
            sharers=bits,
            seals=tuple(
                SealedShare(peer, seals[peer][device])
                for peer in cohort.neighbours(device)
                if peer in sharers
            ),
        )
        for device in sorted(sharers)
    }


def unmask_requests(
    cohort: Cohort,
    *,
    survivors: frozenset[DeviceId],
    dropped: frozenset[DeviceId],
    asked: Iterable[DeviceId],
    confirmations: Mapping[DeviceId, SurvivorConfirmation],
) -> dict[DeviceId, UnmaskRequest]:
    """For each device that is asked the lists of survivors and dropped, and what its holders signed."""
    survivor_bits, dropped_bits = positions_of(cohort, survivors), positions_of(cohort, dropped)
    return {
        device: UnmaskRequest(
            session=cohort.session,
            round_number=cohort.round_number,
            survivors=survivor_bits,
            dropped=dropped_bits,
            confirmations=tuple(
                confirmations[holder] for holder in cohort.holders(device) if holder in confirmations
            ),
        )
        for device in sorted(asked)
    }


def positions_of(cohort: Cohort, devices: Iterable[DeviceId]) -> bytes:
    """A set of the cohort's devices as a message holds it."""
    return pack_positions((cohort.position(device) for device in devices), len(cohort.ids))


def check_enough(devices: Collection[DeviceId], floor: int, what: str) -> None:
    """Raise VoidRoundError if fewer than `floor` devices did `what`."""
    if len(devices) < floor:
        raise VoidRoundError(
            f"{len(devices)} devices {what}; the sum needs {floor}: the round is void, nothing is unmasked; retry it in a new "
            "session"
        )


def check_removable(cohort: Cohort, survivors: frozenset[DeviceId], dropped: frozenset[DeviceId]) -> None:
    """Raise VoidRoundError if somebody's secret has fewer than a threshold of holders among the survivors."""
    lost = [
        device
        for device in survivors | dropped
        if len(survivors.intersection(cohort.holders(device))) < cohort.plan.threshold
    ]
    if lost:
        raise VoidRoundError(
            f"fewer than {cohort.plan.threshold} holders of the shares of {named(lost)} are left, so the masks cannot be removed: "
            "the round is void, nothing is unmasked; retry it in a new session"
        )
