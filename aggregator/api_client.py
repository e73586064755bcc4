"""The operator API from a command line: start, list, read and cancel training runs over HTTPS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import httpx

from aggregator.errors import FleetError
from runtime.errors import SettingsError
from service.secret_files import read_secret

__all__ = ["ApiClient"]


class ApiClient:
    """Calls an aggregator's operator API.

    Raises:
        SettingsError: the CA or token file cannot be used.
    """

    def __init__(self, url: str, ca_file: Path, token_file: Path) -> None:
        token = read_secret(token_file, "--token-file")
        try:
            context = ssl.create_default_context(cafile=str(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"--ca {ca_file} holds no usable CA certificate: {error}") from None
        if not url.startswith("https://"):
            raise SettingsError(f"--url {url!r} must begin with https://")
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url, verify=context, timeout=20.0, headers={"Authorization": f"Bearer {token}"}
        )

    def call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The JSON object that answers a call; raises FleetError with the server's own words."""
        try:
            answer = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise FleetError(f"the aggregator at {self._url} cannot be reached: {error}") from None
        try:
            value = answer.json()
        except ValueError:
            value = {}
        if not isinstance(value, dict):
            value = {}
        if not answer.is_success:
            raise FleetError(f"{value.get('detail') or 'no reason given'} (HTTP {answer.status_code})")
        return value
