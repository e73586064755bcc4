"""Whose invitations this device follows: the aggregator's, whose key the owner has pinned, and nobody else's.

An invitation comes over a broker, and the broker may be anybody's. Checked twice: by the agent before it starts a learner, and by the
learner, which signs its requests to the key that signed the invitation. A device without a pinned key detects and does not train.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from edge_agent.settings import FlowerSettings, Settings
from protocol.errors import IdentityError, InvitationError
from protocol.identity import load_public_key
from protocol.invitations import check_invitation
from protocol.messages.payloads import TrainingInvitation
from runtime.errors import SettingsError

__all__ = ["AggregatorTrust", "Distrust", "distrust"]

log: Final = logging.getLogger(__name__)

Distrust = Callable[[TrainingInvitation, float], str | None]
"""Why an invitation is not followed at this time (Unix seconds), in one line; None where it is."""

NO_TABLE: Final = "agent.toml has no [flower] table, so no aggregator is trusted"
NO_KEY: Final = (
    "agent.toml's [flower] has no aggregator_key, so this device does not train: run `fedge-aggregator identity` where the"
    " aggregator runs, save what it prints beside agent.toml, and name that file as aggregator_key"
)


class AggregatorTrust:
    """The pinned keys, read from their files.

    Args:
        settings: of the device.

    Raises:
        SettingsError: there is no [flower] table or no key in it, or a key file cannot be used; the message says what to do.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.flower is None:
            raise SettingsError(NO_TABLE)
        self._family, self._host = settings.family, settings.flower.host
        self._keys = _keys(settings.flower)

    def signer(self, invitation: TrainingInvitation, now_s: float) -> ec.EllipticCurvePublicKey:
        """The pinned key that signed `invitation`; raises InvitationError where this device does not follow it."""
        return check_invitation(invitation, self._keys, family=self._family, host=self._host, now_s=now_s)


def distrust(settings: Settings) -> Distrust:
    """The check for the resident agent, which goes on detecting whatever is wrong with its keys."""
    try:
        trust = AggregatorTrust(settings)
    except SettingsError as error:
        reason = str(error)
        if settings.flower is not None:
            log.error("training_is_off reason=%s", reason)  # noqa: TRY400 - one line for a person, no traceback
        return lambda _invitation, _now_s: reason

    def check(invitation: TrainingInvitation, now_s: float) -> str | None:
        try:
            trust.signer(invitation, now_s)
        except InvitationError as error:
            return str(error)
        return None

    return check


def _keys(flower: FlowerSettings) -> tuple[ec.EllipticCurvePublicKey, ...]:
    if flower.aggregator_key is None:
        raise SettingsError(NO_KEY)
    return tuple(_key(path) for path in flower.aggregator_key)


def _key(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        return load_public_key(path.read_bytes())
    except (OSError, IdentityError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        raise SettingsError(
            f"flower.aggregator_key {path} cannot be used: {reason}; it is what `fedge-aggregator identity` prints"
        ) from None
