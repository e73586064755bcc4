"""What changed in the fleet, as it happens: for people and programs that watch.

::

    database ◄─ `query`: ONE statement a second ─ `hub` ─► each listener's bounded queue ─► fleet.api.events (server-sent events)
                                                                                              `change`: what both ends read
"""
