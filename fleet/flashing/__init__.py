"""Flashing: an agent onto a card, a disk or a running board, from one command to a device that enrols itself."""
