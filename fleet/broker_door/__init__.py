"""Who is shut out of the broker, and what else the broker is told: the fleet's word, confirmed by the broker.

::

    device CA's certificate: lets a device in ─────────────────────────► broker: name of the certificate = device = user = client id
    database (revoked devices) ─► shut_out.py: who must stay out ─┬─► dynamic_security.py   Mosquitto, over the fleet's own connection
                                                                  └─► name_file.py          the embedded broker of a simulation
    broker_files.py: configuration, rights, trust and first state of Mosquitto, for one tenant

Whoever revokes commits to the database first and then asks for `BrokerDoor.shut_out`; what the broker holds can always
be made anew from what the database says.
"""
