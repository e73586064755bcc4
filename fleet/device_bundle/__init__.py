"""A device bundle: the agent with everything it needs but Python, unpacked, in one reproducible archive for one kind of board."""
