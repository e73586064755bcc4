"""How much may come: by who sends it, and where to. Decided before a byte of it is read."""

from __future__ import annotations

from typing import Final

from fleet.api.page_paths import PAGE_BYTES, is_page
from protocol.limits import MAX_PAYLOAD_BYTES
from service.body_limit import LargestBody
from service.roles import Caller, CallerKind, Role, allows

__all__ = ["largest_body"]

CLAIM_BYTES: Final = 32 * 1024
"""An enrolment: a key, a request for a certificate, 32 labels of 200 characters."""

OPERATOR_BYTES: Final = 256 * 1024
"""The largest JSON body is a rollout plan: 20 groups, 20 rules and a query of 2000 characters stay under 20 KB."""


def largest_body(maximum_bundle_bytes: int) -> LargestBody:
    """The rule of a fleet that takes bundles of so many bytes; from publishers alone."""

    def largest(caller: Caller | None, method: str, path: str) -> int:
        if caller is None:
            return PAGE_BYTES if is_page(path) else 0
        match caller.kind:
            case CallerKind.CLAIM:
                return CLAIM_BYTES
            case CallerKind.DEVICE:
                return MAX_PAYLOAD_BYTES
            case CallerKind.OPERATOR:
                may_publish = caller.role is not None and allows(caller.role, Role.PUBLISHER)
                is_bundle = (method, path) == ("POST", "/v1/releases")
                return maximum_bundle_bytes if is_bundle and may_publish else OPERATOR_BYTES

    return largest
