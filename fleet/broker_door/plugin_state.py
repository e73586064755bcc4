"""What Mosquitto's dynamic-security plugin is used for here: a list of who is shut out, kept by the fleet.

The plugin is asked about a topic before the acl file. Of who is not in it, it knows nothing and leaves the question to that
file; so all its defaults must be "no". Who is in it with the role `SHUT_OUT_ROLE` may say and hear nothing. The fleet alone
may give it commands, by the role `FLEET_ROLE`. With client certificates nobody has a password in it.

Source: plugins/dynamic-security of Eclipse Mosquitto 2.0.11 (acl.c: the order; clients.c, roles.c: what it loads).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

__all__ = [
    "COMMAND_TOPIC",
    "FLEET",
    "FLEET_ROLE",
    "RESPONSE_TOPIC",
    "SHUT_OUT_ROLE",
    "default_denials",
    "plugin_state",
    "role",
    "shut_out_client",
]

COMMAND_TOPIC: Final = "$CONTROL/dynamic-security/v1"
RESPONSE_TOPIC: Final = f"{COMMAND_TOPIC}/response"

FLEET: Final = "fleet"
"""The name in the fleet's own certificate."""

FLEET_ROLE: Final = "fedge-fleet"
SHUT_OUT_ROLE: Final = "fedge-shut-out"

_DEFAULTS: Final = ("publishClientSend", "publishClientReceive", "subscribe", "unsubscribe")
_RIGHTS: Final = ("publishClientSend", "publishClientReceive", "subscribePattern", "unsubscribePattern")
_TOPICS: Final = {
    FLEET_ROLE: (f"{COMMAND_TOPIC}/#",),
    # "#" is every topic but those that begin with "$"
    SHUT_OUT_ROLE: ("#", "$SYS/#", "$CONTROL/#", "$share/#"),
}


def default_denials() -> list[dict[str, Any]]:
    """What the plugin must not allow by itself, as its command setDefaultACLAccess wants it."""
    return [{"acltype": right, "allow": False} for right in _DEFAULTS]


def role(name: str) -> dict[str, Any]:
    """`FLEET_ROLE` or `SHUT_OUT_ROLE`, as the plugin's commands and its file have it."""
    return {
        "rolename": name,
        "acls": [
            {"acltype": right, "topic": topic, "priority": 0, "allow": name == FLEET_ROLE}
            for topic in _TOPICS[name]
            for right in _RIGHTS
        ],
    }


def shut_out_client(name: str, mark: str) -> dict[str, Any]:
    """The entry of one who is shut out; `mark` says that it is this fleet's."""
    return {
        "username": name,
        "textname": mark,
        "roles": [{"rolename": SHUT_OUT_ROLE, "priority": 0}],
        "groups": [],
    }


def plugin_state(shut_out: Iterable[str], mark: str) -> dict[str, Any]:
    """The plugin's whole file: what it starts from before the fleet can speak to it."""
    fleet = {"username": FLEET, "textname": "the fleet itself", "roles": [{"rolename": FLEET_ROLE}]}
    return {
        "defaultACLAccess": dict.fromkeys(_DEFAULTS, False),
        "clients": [fleet, *(shut_out_client(name, mark) for name in sorted(shut_out))],
        "groups": [],
        "roles": [role(FLEET_ROLE), role(SHUT_OUT_ROLE)],
    }
