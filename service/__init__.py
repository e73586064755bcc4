"""What the two cloud services share: one way to refuse, to bound a request, and to know who calls.

::

    fleet.app ──────┐                       ┌─► problems     errors as RFC 9457 problem documents
                    ├─► application ────────┼─► body_limit   a body is bounded in bytes and in time
    aggregator.app ─┤    (one FastAPI app)  └─► access, token_first ─► tokens, roles   who calls, and may they
                    └─► https_server ─► connections, served_certificate   nobody holds a door open

It runs in the cloud only: `edge_agent` and `models` never import it.
"""
