"""``fedge study``: would this help with my machines? Their recordings, played through the agent that would watch them."""
