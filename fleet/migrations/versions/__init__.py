"""One file per schema step, applied in order by `fleet.migrations.upgrade`."""
