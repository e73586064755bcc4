"""A plant (`service.plant`) made, started, looked at: what `fedge init plant`, `up`, `down`, `doctor` and `status` do.

Everything of it follows from one description, plant.toml. Whoever has a plant types no settings, certificates, keys or tokens.
"""
