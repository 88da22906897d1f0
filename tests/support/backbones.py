"""Backbones of other sides, made in a moment and without TensorFlow."""

from __future__ import annotations

import flatbuffers
from ai_edge_litert import schema_py_generated as schema


def at_side(flatbuffer: bytes, side: int) -> bytes:
    """The same weights with an input of another side, as a flatbuffer; the interpreter works out all other shapes."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(flatbuffer, 0))
    [graph] = model.subgraphs
    graph.tensors[graph.inputs[0]].shape = [1, side, side, 3]
    builder = flatbuffers.Builder(len(flatbuffer))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
