"""What two machines of a Fedge fleet must agree on: messages, topics, bundles, identity, round questions.

Pure data and pure functions: no sockets, no files, no clock, no randomness that was not handed in.
Imports numpy, cryptography and msgspec only, so that it runs on the smallest device.
"""
