"""The signed repository (The Update Framework) that every device pins by its root.

Read first: `metadata` (what the roles' files are), `repository` (on disk: published whole or not at all, renewed by itself),
`listings` (what a family's key may list), `changes` and `ceremony` (what people sign, on machines that are not the fleet's).
"""
