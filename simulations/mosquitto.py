"""Which broker a world has: Mosquitto where this machine has it, else the embedded one (`fleet.plant.broker` starts either)."""

from __future__ import annotations

from enum import StrEnum

from fleet.plant.mosquitto import INSTALL, find_mosquitto
from service.plant_description import BrokerKind
from simulations.errors import ScenarioError

__all__ = ["BrokerChoice", "choose_broker"]


class BrokerChoice(StrEnum):
    """What a world's broker shall be; ``auto`` is Mosquitto where it is installed with its plugin."""

    AUTO = "auto"
    MOSQUITTO = "mosquitto"
    EMBEDDED = "embedded"


def choose_broker(choice: BrokerChoice) -> BrokerKind:
    """Mosquitto, or the embedded broker.

    Raises:
        ScenarioError: Mosquitto was asked for, and a part of it is missing here.
    """
    is_here = choice is not BrokerChoice.EMBEDDED and find_mosquitto() is not None
    if not is_here and choice is BrokerChoice.MOSQUITTO:
        raise ScenarioError(f"--broker mosquitto needs {INSTALL}")
    return BrokerKind.MOSQUITTO if is_here else BrokerKind.EMBEDDED
