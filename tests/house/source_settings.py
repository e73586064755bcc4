"""Every setting of each kind of source with two valid values, and the tables in lists that one cannot do without."""

from __future__ import annotations

from typing import Any

SOURCES: dict[str, dict[str, tuple[Any, Any]]] = {
    "simulated": {
        "source.seed": (0, 1),
        "source.profile": ("motor-a", "fan-c"),
        "source.speed": (0.5, 60),
        "source.snapshot_every_s": (0.5, 2),
        "source.sample_rate_hz": (3200, 12_800.5),
        "source.window_samples": (256, 65_536),
        "source.control_file": ("a.json", "/b.json"),
    },
    "replay": {
        "source.path": ("a.npz", "/b.csv"),
        "source.answers": ({"a": "b"}, {"c": "d"}),
        "source.machine": ("a", "b"),
        "source.key": ("a", "b"),
        "source.columns": (["a"], ["b", "c"]),
        "source.delimiter": (",", ";"),
        "source.rows": ([0, 1], [2, 9]),
        "source.row_every_s": (0.5, 2),
        "source.raw_bytes_per_row": (1, 2),
        "source.window_rows": (1, 65_536),
        "source.step_rows": (1, 2),
        "source.is_vibration": (True, False),
        "source.speed": (0.5, 60),
        "source.loop": (True, False),
        "source.control_file": ("a.json", "/b.json"),
    },
    "plugin": {
        "source.factory": ("a:b", "c.d:e"),
        "source.answers_within_s": (5.0, 90.0),
        "source.speed": (0.5, 60),
        "source.options": ({"pin": 3}, {"pin": 4}),
    },
    "opcua": {
        "source.url": ("opc.tcp://localhost:4840", "opc.tcp://127.0.0.1/a"),
        "source.nodes": ({"a": "ns=2;i=1"}, {"b": "ns=2;s=b"}),
        "source.every_s": (0.5, 60),
        "source.window_rows": (1, 65_536),
        "source.answers_within_s": (0.5, 90.0),
        "source.stale_after_s": (0.5, 90.0),
        "source.security": ("sign", "sign-encrypt"),
        "source.certificate_file": ("a.pem", "/b.pem"),
        "source.key_file": ("a.pem", "/b.pem"),
        "source.server_certificate_file": ("a.pem", "/b.pem"),
        "source.username": ("a", "b"),
        "source.password_file": ("a", "/b"),
    },
    "modbus": {
        "source.url": ("modbus://a", "modbus://b:1502"),
        "source.unit": (0, 255),
        "source.every_s": (0.5, 60),
        "source.window_rows": (1, 65_536),
        "source.answers_within_s": (0.5, 90.0),
    },
    "mqtt": {
        "source.url": ("mqtts://a", "mqtts://b:1"),
        "source.topics": ({"a": "x/y"}, {"b": "x/z#field"}),
        "source.every_s": (0.5, 60),
        "source.window_rows": (1, 65_536),
        "source.stale_after_s": (0.5, 90.0),
        "source.ca_file": ("a.pem", "/b.pem"),
        "source.username": ("a", "b"),
        "source.password_file": ("a", "/b"),
        "source.certificate_file": ("a.pem", "/b.pem"),
        "source.is_private_wire": (True, False),
        "source.keepalive_s": (2, 1200),
    },
    "lines": {
        "source.input": ("-", "/dev/ttyUSB0"),
        "source.columns": (["a"], ["b", "c"]),
        "source.baud": (1200, 115_200),
        "source.delimiter": (";", "|"),
        "source.decimal_comma": (True, False),
        "source.every_s": (0.5, 60),
        "source.window_rows": (1, 65_536),
    },
}
SOURCE_LISTS = {
    "modbus": """[[source.registers]]
name = "a"
address = 100
table = "holding"
type = "float32"
low_word_first = true
scale = 0.1
offset = 1.0
missing = -32768.0
"""
}
