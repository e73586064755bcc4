"""What becomes of events with time: health is rolled up into blocks, and what is old goes."""
