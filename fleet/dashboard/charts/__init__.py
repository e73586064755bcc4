"""Charts as SVG, drawn by the server: numbers in, `Markup` out; no colour, no script, no web framework (`assets` has those)."""
