"""What every process of Fedge stands on: the one settings loader, durable files, back-off.

Standard library and msgspec only, none of our packages: it runs on the smallest device and starts in milliseconds.
"""
