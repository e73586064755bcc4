"""The whole state of Mosquitto's dynamic-security plugin: what it starts from before the fleet can speak to it.

Needed once when a broker is set up, and again when its state is lost. It holds every account with its hash, so it also
brings along devices that enrolled under an older fleet, whose passwords nobody knows.

Rights are few here: what a user may say and hear is in Mosquitto's acl file, by pattern. The plugin's defaults are all
"no" so that it leaves every topic to that file; only the fleet may also give commands to the plugin.

Source: plugins/dynamic-security of Eclipse Mosquitto 2.0.11 (clients.c, roles.c: what it loads).
"""

from __future__ import annotations

from typing import Any, Final

from fleet.broker_accounts.accounts import AccountBook

__all__ = ["COMMAND_TOPIC", "DENY_BY_DEFAULT", "RESPONSE_TOPIC", "broker_state"]

COMMAND_TOPIC: Final = "$CONTROL/dynamic-security/v1"
RESPONSE_TOPIC: Final = f"{COMMAND_TOPIC}/response"

DENY_BY_DEFAULT: Final = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
"""What the plugin must not allow by itself, or it would not ask the acl file."""

FLEET_ROLE: Final = "fedge-fleet"


def broker_state(book: AccountBook, *, fleet_name: str, fleet_entry: str) -> dict[str, Any]:
    """The plugin's configuration file, as an object.

    Args:
        book: the accounts of devices and services.
        fleet_name: the account that may give commands to the plugin.
        fleet_entry: its ``$7$`` entry.
    """
    administrator = _client(fleet_name, fleet_entry, {"textname": "the fleet itself"}) | {
        "roles": [{"rolename": FLEET_ROLE}]
    }
    others = [
        _client(name, entry, book.labels(name, entry)) for name, entry in sorted(book.entries().items())
    ]
    rights = ("publishClientSend", "publishClientReceive", "subscribePattern", "unsubscribePattern")
    return {
        "defaultACLAccess": dict.fromkeys(DENY_BY_DEFAULT, False),
        "clients": [administrator, *others],
        "groups": [],
        "roles": [
            {
                "rolename": FLEET_ROLE,
                "acls": [
                    {"acltype": right, "topic": f"{COMMAND_TOPIC}/#", "priority": 0, "allow": True}
                    for right in rights
                ],
            }
        ],
    }


def _client(name: str, entry: str, labels: dict[str, str]) -> dict[str, Any]:
    _, _, iterations, salt, digest = entry.split("$")
    return labels | {
        "username": name,
        "password": digest,
        "salt": salt,
        "iterations": int(iterations),
    }
