"""A world on one laptop: machines, a broker, the real services and agents, a story, and what was seen of it.

It starts and drives the real packages as separate processes; it never copies or replaces a part of them.
"""
