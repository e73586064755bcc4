"""The command line, one module per subject; `fleet.cli` mounts them."""
