"""A fleet of many thousand devices on one machine: everything of a device that a fleet can see, and no interpreter each.

::

    place (whose fleet) ─► members (keys, certificates; enrolment) ─► crowd ─┬─ device: what one says and obeys (no I/O)
                                                                             ├─ session: its MQTT over mutual TLS
                                                                             └─ ledger: what was sent, acknowledged, obeyed
                                                          accounts: the ledger against the fleet's own database

A hollow device watches no machine and runs no model: its figures are made up, its installation is a pause. What it says is said
as an agent says it: enrolled, over its own certificate, numbered, sealed, until the fleet acknowledges; what it hears is obeyed
only with the fleet's seal and in the order of its counters.
"""
