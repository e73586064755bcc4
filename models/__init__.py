"""What learns and what detects: architectures, windows, thresholds, drift, and LiteRT on the device.

Runs on every machine with numpy, msgspec and ai-edge-litert; `models.export` alone needs TensorFlow and runs in
the cloud. No sockets, no threads, no clock, no randomness that was not handed in.
"""
