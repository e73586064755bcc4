"""Tells people, once, that something needs them, and once that it is over: grouped, silenced, routed, delivered at least once.

::

    tables of the fleet ─► `signs` (after durable places) ─► `alarms`: one a device and kind ─► `grouping`: one a storm ─┐
                                                   `silences` ──────────────────────────────────┘                       │
       receivers ◄─ `receivers` ◄─ `delivering` (one task each, back-off, rate) ◄─ `outbox` ◄───────────────────────────┘

One transaction moves the places and writes alerts, groups and the outbox: what was read is told, whoever dies when. Never part of
a transaction that stores events, and under the leader alone. Decision 0043 says why it is so; docs/alerts.md how it is used.
"""
