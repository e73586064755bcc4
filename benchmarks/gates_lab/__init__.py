"""A laboratory for the gates of a rollout: fleets that are made up, releases whose harm is known, and three kinds of gate."""
