"""Installing a release on a device: check, download, verify, probe, activate, try, and undo.

::

    rules                  decisions             adapters
    acceptance.py  ◄──┐
    comparison.py     │
    trial.py       ◄──┴──  transitions.py  ◄──   installer.py (the worker) ── journal_file.py · bundle_store.py
    journal.py             works.py              verification.py ── download.py · probe.py

`installer.Installer` is the only class the agent's loop meets. Nothing becomes active before it was found on
the signed repository's list, and its hashes and its fit to this device were checked; every step is on disk before the next one begins.
"""
