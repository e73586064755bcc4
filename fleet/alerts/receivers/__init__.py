"""The languages of those who are told: each takes messages, dresses them, sends them once, and says what became of it.

None of them tries again, waits or remembers: that is `fleet.alerts.outbox`. None raises what the road did to it. Secrets are read for
each message, so that one which was replaced is taken without a restart; no word of theirs holds one.
"""
