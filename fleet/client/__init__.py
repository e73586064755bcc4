"""The fleet's API for programs of ours: `client` asks, `event_stream` listens. No server library is imported here."""
