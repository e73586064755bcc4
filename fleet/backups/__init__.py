"""Everything of a plant in one file, and a plant out of such a file.

`taking` makes it, of a plant that runs: `instant` holds every database at one and the same moment. `restoring` brings it back, and
`aftermath` sees that nothing goes on that a later word has ended. `archive` is the file, `sealing` its seal. It knows neither
rollouts nor devices from within: what it changes after a restore it changes by the fleet's own verbs.
"""
