"""The HTTP API: one router per resource. Endpoints are plain functions on worker threads (see `storage.base`)."""
