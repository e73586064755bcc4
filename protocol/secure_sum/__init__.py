"""The secure sum: the server learns the sum of the devices' integer vectors and nothing else.

SecAgg+ (Bell, Bonawitz, Gascón, Lepoint, Raykova, CCS 2020) with both roles as state machines that do no I/O. Read
`device_role` and `server_role` first; see README.md.
"""
