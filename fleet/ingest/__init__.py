"""From raw MQTT messages to rows: judged, put in order, stored once, acknowledged after commit.

::

    (topic, payload) ─► judging ─► Event ─► ranges: seen before? ─► records, device_view ─► commit ─► acks
                           │         └► boots: in which order? ─► clones: one device?             ▲
                           └► Refusal ─► dead_letters: kept ──────────────────────────────────────┘
                                             └► replay: once more, when a person says so

Nothing here knows MQTT or asyncio; `fleet.mqtt` feeds it.
"""
