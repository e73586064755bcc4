"""Files that people hand over: one honest reader, and the strict doors of a device's replay and a first release.

::

    reading ─► folders ─┬─► text ─► dialect ─► table (grid, numerals, stamps, styles, odd_lines) ─┐
                        └─► arrays (npz, WAV, Parquet) ───────────────────────────────────────────┼─► parts ─► fleets ─► Reading
                                             times, roles (devices, labels, sentinels) ◄──────────┘     or QuestionsOpen

    path ─► files (a regular file? of which format?) ─┬─► npz  (zip, headers, sizes, then the values) ─┬─► recording.Recording
                                                      └─► csv  (header, lines, cells) ─► clocks ───────┘

Whatever lies in a file, the reader understands it, asks, or refuses; a door gives a `recording.Recording` or raises
`models.errors.RecordingError` with one sentence. What was done on its own account (a clock left out, a torn last line dropped) is said
in `notes`.
"""
