"""The cloud's view of the fleet: devices, enrolment, releases, rollouts, anomalies and drift, over HTTPS and MQTT.

Imports `protocol` and the manifest side of `models`; never `edge_agent` or `aggregator`. Read `app.py` first.
"""
