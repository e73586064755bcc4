"""What poisoners can do to a fleet that learns, layer by layer: `benchmarks/poisoning.py`."""
