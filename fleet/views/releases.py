"""Releases as the API shows them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["ReleaseView"]


class ReleaseView(BaseModel):
    """A release's record. `manifest.provenance` says which training run made it and what it was judged by.

    `approved_by` is the person who first approved a rollout of it, None where nobody did or only a publisher's token.
    `listed_at` is when the signed repository began to list it, None where it does not: no device takes it then.
    `desired_devices` is how many devices shall run it now. Of those that are not withdrawn, the one with the most (of
    equals the newest) is what training builds upon and is judged against.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "rotating-machine/2",
                "family": "rotating-machine",
                "version": 2,
                "sha256": "9a…",
                "size_bytes": 98304,
                "signed_by": "77…",
                "bundle_path": "/v1/releases/rotating-machine/2/bundle",
                "published_by": "publisher:aggregator",
                "published_at": 1767225600.0,
                "desired_devices": 12,
                "approved_at": 1767229200.0,
                "approved_by": "operator:alice",
                "listed_at": 1767225601.0,
                "withdrawn_at": None,
                "withdrawn_reason": None,
                "manifest": {"format": 1, "family": "rotating-machine", "version": 2},
                "provenance": {"training_run": "run-1", "rounds": 5, "participants": 12},
            }
        }
    )
    id: str
    family: str
    version: int
    sha256: str
    size_bytes: int
    signed_by: str
    bundle_path: str
    published_by: str
    published_at: float
    desired_devices: int
    approved_at: float | None
    approved_by: str | None
    listed_at: float | None
    withdrawn_at: float | None
    withdrawn_reason: str | None
    manifest: dict[str, Any]
    provenance: dict[str, Any]
