"""The tables of `benchmarks/learning.py`, one module each; found because the script's folder is on the import path."""
