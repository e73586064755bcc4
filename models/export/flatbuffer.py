"""Reading and writing ``.tflite`` flatbuffers as objects, so that the same model always has the same bytes.

Wraps the schema that ai-edge-litert ships (generated, untyped). Not a model builder: `int8_graph` and
`training_graph` say what is in a model.
"""

from __future__ import annotations

from typing import Any

__all__ = ["canonical_model", "make", "pack_model"]


def make(kind: str, **fields: Any) -> Any:
    """An object of the TFLite schema, e.g. ``make("TensorT", shape=[1, 8])``; raises AttributeError for a typo."""
    # 20 000 generated lines: loaded only where a model is built.
    from ai_edge_litert import schema_py_generated as schema

    made = getattr(schema, kind)()
    for name, value in fields.items():
        getattr(made, name)
        setattr(made, name, value)
    return made


def pack_model(model: Any) -> bytes:
    """The flatbuffer of a ``ModelT``, with the TFL3 identifier."""
    import flatbuffers  # type: ignore[import-untyped] # ships no types; comes with the quantizer

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def canonical_model(content: bytes, *, description: str) -> bytes:
    """The same model without what a converter leaves of its own run: tensor names, metadata, version stamps."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.description = description.encode()
    model.metadata = None
    model.metadataBuffer = None
    for s, subgraph in enumerate(model.subgraphs):
        subgraph.name = f"subgraph_{s}".encode()
        for t, tensor in enumerate(subgraph.tensors):
            tensor.name = f"s{s}_t{t}".encode()
    return pack_model(model)
