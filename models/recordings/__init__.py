"""The doors through which a stranger's recording comes in: one for NPZ, one for CSV, for device, trainer and simulator alike.

::

    path ─► files (a regular file? of which format?) ─┬─► npz  (zip, headers, sizes, then the values) ─┬─► recording.Recording
                                                      └─► csv  (header, lines, cells) ─► clocks ───────┘

Whatever lies in a file, a door gives a `recording.Recording` or raises `models.errors.RecordingError` with one sentence.
What a door did on its own account (a clock left out, a torn last line dropped) it says in `Recording.notes`.
"""
