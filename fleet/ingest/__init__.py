"""From raw MQTT messages to rows: judged, stored once, acknowledged after commit.

::

    (topic, payload) ─► judging ─► Event ─► sequences: seen before? ─► store: rows + device state ─► commit ─► acks
                           └► Refusal: counted, audited in one line with its device, dropped

Nothing here knows MQTT or asyncio; `fleet.mqtt` feeds it.
"""
