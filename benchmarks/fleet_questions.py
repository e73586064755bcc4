"""Asks a fleet's API for what a dashboard shows, twenty times a second, and prints how long each answer took: for `fleet.py`.

A process of its own: in that of ten thousand devices it would wait for those, and not for the fleet.
"""

from __future__ import annotations

import argparse
import json
import ssl
import time
from collections import defaultdict
from pathlib import Path

import httpx

PAUSE_S = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a fleet's answers")
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--rollout", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    paths = ("/v1/devices?limit=100", "/v1/anomalies?limit=100", f"/v1/rollouts/{options.rollout}")
    names = (*paths[:2], "/v1/rollouts/{id}")
    took: dict[str, list[float]] = defaultdict(list)
    token = options.token_file.read_text("ascii").strip()
    with httpx.Client(
        base_url=options.url,
        headers={"Authorization": f"Bearer {token}"},
        verify=ssl.create_default_context(cafile=options.ca),
        timeout=60.0,
    ) as api:
        ends = time.monotonic() + options.seconds
        while time.monotonic() < ends:
            for path, name in zip(paths, names, strict=True):
                began = time.monotonic()
                api.get(path).raise_for_status()
                took[name].append(time.monotonic() - began)
                time.sleep(PAUSE_S)
    print(json.dumps(took))


if __name__ == "__main__":
    main()
