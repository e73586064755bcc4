"""The HTTP API: one router per resource, and nothing that decides.

::

    request ─► service.body_limit ─► who calls (service.access) ─► endpoint ─► fleet.rollouts, .releases, .enrolment, …
                                                                      └─► problem+json by the table in `statuses`

Endpoints are plain functions on worker threads, because they wait for the database (see `fleet.storage.base`); those that
wait for a body or for the broker are coroutines. Each says in its signature who may call it; a test walks all routes and
holds fast that only ``/healthz`` is open. The first sentences of docstrings here are what OpenAPI shows.
"""
