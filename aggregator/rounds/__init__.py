"""A training run, from the invitation to the release: policies, rules and the state machine that ties them.

Read first: `coordinator` (the machine), `runs` (what a run is), `ports` (what it needs of the world), `collector` (the
seam where a secure sum will stand). Knows neither Flower nor HTTP nor MQTT.
"""
