"""What the fleet asks of this device besides a release: commands, each obeyed once, and a closed list of settings.

`hearing` knows whose word counts, `executor` obeys it, `journal` survives a kill, `fleet_settings` knows the list and its bounds, `actions` are what can be
asked, `diagnosis` and `log_ring` make the bundle that one of them sends, `assembly` puts all of it together.
"""
