"""What the fleet keeps on disk: one table module per subject over the engine of `base`.

Table modules hold columns and nothing that decides. Times are Unix seconds (float) throughout.
"""
