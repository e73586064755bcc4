"""From raw MQTT messages to rows: judged, put in order, stored once, acknowledged after commit.

::

    (topic, payload) ─► repeats: stored already? ─► acknowledged again, without a write
         │ no, or it must be looked at
         └► judging ─► Event ─► ranges: seen before? ─► records, device_view ─► commit ─► acks
               │         └► boots: in which order? ─► clones: one device?             ▲
               └► Refusal ─► dead_letters: kept ──────────────────────────────────────┘
                                 └► replay: once more, when a person says so

Nothing here knows MQTT or asyncio; `fleet.mqtt` feeds it.
"""
