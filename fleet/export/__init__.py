"""What the fleet tells, as files: `sources` says what there is and in which columns, `files` how a row is written."""
