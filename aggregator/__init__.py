"""The cloud side of learning together: rounds over Flower, the server's step, the gate, the release.

Adapters (`flower`, the HTTP API, MQTT) touch the world; `rounds` decides and knows neither Flower nor sockets.
"""
