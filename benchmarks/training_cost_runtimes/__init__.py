"""The runtimes of `benchmarks/training_cost.py`, one module each, and the child process that drives one of them.

Each implements `workloads.Runtime`, takes the same batches from the same start, and is run alone in a process, on one
thread. Found because the script's folder is on the import path.
"""
