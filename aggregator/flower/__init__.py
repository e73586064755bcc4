"""Flower's server, embedded: its Fleet API over TLS for the devices, and nothing else of it.

The one place of the aggregator that knows Flower. `flower_internals` holds every name that Flower does not promise
to keep; `fleet_app` is what devices reach; `grid` asks and hears; `server` ties them to one database.
It implements the port `aggregator.rounds.cohort_link.CohortLink`; rounds never import from here.
"""
