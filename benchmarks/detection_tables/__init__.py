"""The parts of `benchmarks/detection.py`: devices, methods, what they are judged by, and the lines that must hold."""
