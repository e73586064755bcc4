"""Who may enter the broker: one account a device, one a service, owned by the fleet and confirmed by the broker.

::

    database (enrolled devices), settings (services)
          └─► accounts.py: what the broker must hold ─┬─► dynamic_security.py   Mosquitto, over the fleet's own connection
                                                      ├─► password_file.py      the embedded broker of a simulation
                                                      └─► broker_state.py       Mosquitto before its first start
    passwords.py: a device's password follows from a key of the fleet; nobody stores it

Whoever enrols or revokes commits to the database first and then asks for `BrokerAccounts.update`; so what the broker
holds can always be made anew from what the database says.
"""
