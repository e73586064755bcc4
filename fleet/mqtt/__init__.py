"""The road to the devices: one MQTT 3.1.1 connection, what comes in, what goes out.

::

    broker ─► link ─► intake (batches) ─► ingest.store ─► commit ─► outgoing: acks ─► link ─► broker
                                                    rollouts ─► outgoing: desired ─┘
"""
