"""What a card is told for its first boot: the join that our own unit does, and the person's wishes in the system's own mechanism.

::

    /opt/fedge/…                                  the bundle
    /var/lib/fedge/first-boot/device.join         with the claim: root's alone
    /var/lib/fedge/first-boot/join                fedge-agent join, until it is done; then the file is deleted
    /etc/systemd/system/fedge-first-boot.service  starts that at each boot while the join file is there
    user-data, network-config │ firstrun.sh       user, key, Wi-Fi, host name, time zone

The join waits for no network and no clock, and for neither cloud-init nor firstrun. JSON is YAML, and quotes whatever a person wrote.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "AGENT",
    "PLACE",
    "UNIT",
    "Wanted",
    "firstrun",
    "join_script",
    "network_config",
    "run_firstrun",
    "unit",
    "user_data",
    "with_country",
]

AGENT: Final = "/opt/fedge"
PLACE: Final = "/var/lib/fedge/first-boot"
UNIT: Final = "fedge-first-boot.service"
_RUN: Final = (
    " systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target"
)
_CUSTOM: Final = "/usr/lib/raspberrypi-sys-mods/imager_custom"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A person's wishes, checked; `wifi` is (network, password, country)."""

    host_name: str
    user: str | None = None
    ssh_keys: tuple[str, ...] = ()
    timezone: str | None = None
    wifi: tuple[str, str, str] | None = None


def unit() -> str:
    """The unit that joins."""
    return f"""# Written by `fedge-fleet flash`: lets this device join its fleet, once.
[Unit]
Description=Fedge: joins the fleet with the file that came on this card
ConditionPathExists={PLACE}/device.join
After=network.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={PLACE}/join
Restart=on-failure
RestartSec=30
TimeoutStartSec=infinity
StandardOutput=journal+console
StandardError=journal+console
Environment=OPENBLAS_NUM_THREADS=1

[Install]
WantedBy=multi-user.target
"""


def join_script(source: str) -> str:
    """What the unit starts; `source` is what ``--source`` takes, as the device sees it."""
    return f"""#!/bin/sh
# Written by `fedge-fleet flash`. Whatever ends it, the next boot goes on.
set -eu
cd {PLACE}
{AGENT}/bin/fedge-agent join device.join --source {shlex.quote(source)}
rm -f device.join
# The agent watches by now; its next start shall not compile everything again.
nice {AGENT}/bin/python -m compileall -q {AGENT}/lib || true
"""


def user_data(wanted: Wanted) -> str:
    """For cloud-init."""
    document: dict[str, Any] = {"hostname": wanted.host_name, "manage_etc_hosts": True, "ssh_pwauth": False}
    if wanted.timezone is not None:
        document["timezone"] = wanted.timezone
    document["users"] = []
    if wanted.user is not None:
        document["users"] = [
            {
                "name": wanted.user,
                "groups": ["sudo", "dialout"],
                "sudo": ["ALL=(ALL) NOPASSWD:ALL"],
                "shell": "/bin/bash",
                "lock_passwd": True,
                "ssh_authorized_keys": list(wanted.ssh_keys),
            }
        ]
        document["runcmd"] = [["systemctl", "enable", "--now", "ssh"]]
    return f"#cloud-config\n{json.dumps(document, indent=2)}\n"


def network_config(wanted: Wanted) -> str | None:
    """For cloud-init, in netplan's words; None where the image's own stays."""
    if wanted.wifi is None:
        return None
    ssid, password, country = wanted.wifi
    radio = {
        "dhcp4": True,
        "optional": True,
        "regulatory-domain": country,
        "access-points": {ssid: {"password": password}},
    }
    document = {
        "version": 2,
        "ethernets": {"eth0": {"dhcp4": True, "optional": True}},
        "wifis": {"wlan0": radio},
    }
    return f"{json.dumps({'network': document}, indent=2)}\n"


def with_country(cmdline: bytes, wanted: Wanted) -> bytes | None:
    """`cmdline.txt`, which is one line, with the country that the radio is in, without which it stays off; None: as it is."""
    if wanted.wifi is None or b"cfg80211.ieee80211_regdom=" in cmdline:
        return None
    return cmdline.rstrip() + f" cfg80211.ieee80211_regdom={wanted.wifi[2]}\n".encode()


def firstrun(wanted: Wanted) -> str:
    """For Raspberry Pi OS Bookworm: in the words of its own raspberrypi-sys-mods, as the vendor's imager writes it."""
    quoted = shlex.quote
    lines = ["#!/bin/bash", "set +e", f"{_CUSTOM} set_hostname {quoted(wanted.host_name)}"]
    if wanted.user is not None:
        keys = " ".join(quoted(key) for key in wanted.ssh_keys)
        # the key first, for whoever has the number 1000, who is renamed then; an asterisk is the hash of no password
        lines += [
            f"{_CUSTOM} enable_ssh -k {keys}",
            f"/usr/lib/userconf-pi/userconf {quoted(wanted.user)} '*'",
        ]
    if wanted.wifi is not None:
        lines.append(f"{_CUSTOM} set_wlan {' '.join(quoted(word) for word in wanted.wifi)}")
    if wanted.timezone is not None:
        lines.append(f"{_CUSTOM} set_timezone {quoted(wanted.timezone)}")
    # these three as the vendor has them: its initramfs knows them, and leads them to where the partition is mounted
    lines += ["rm -f /boot/firstrun.sh", "sed -i 's| systemd.run.*||g' /boot/cmdline.txt", "exit 0"]
    return "\n".join(lines) + "\n"


def run_firstrun(cmdline: bytes) -> bytes:
    """`cmdline.txt`, which is one line, with the words that start firstrun.sh."""
    return cmdline.rstrip() + _RUN.encode() + b"\n"
