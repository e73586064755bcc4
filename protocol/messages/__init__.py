"""Every message that crosses MQTT: its data, its CloudEvents envelope, its limits.

`kinds` names them, `payloads` holds one struct each, `envelope` encodes and decodes. Unknown fields are
tolerated (a newer sender), unknown versions are refused with a clear error.
"""
