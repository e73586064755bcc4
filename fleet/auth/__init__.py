"""Who calls, and whether they may: operator tokens, claim tokens, device tokens."""
