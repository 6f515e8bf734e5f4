"""A tiny real model that keeps to the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.emotions import EMOTIONS
from mien.core.images import FACE_SIZE
from mien.core.manifest import Manifest, ModelFile, write_manifest
from mien.core.models import MODEL_NAME

_CELLS = 6
_CHANNELS = 8


def tiny_onnx(classes: int = len(EMOTIONS)) -> bytes:
    """Build a network that keeps to the contract: 6x6 cell means -> 8 channels -> mean -> logits.

    Its weights are fixed noise, so that different faces get different, reproducible logits.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    noise = np.random.default_rng(7)
    cell = FACE_SIZE // _CELLS
    pattern = noise.normal(size=(_CELLS, _CELLS, _CHANNELS)).astype(np.float32)
    weights = (noise.normal(size=(_CHANNELS, classes)) * 6).astype(np.float32)
    bias = noise.normal(size=classes).astype(np.float32) * np.float32(0.1)
    constants: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
        "half": np.array(127.5, np.float32),
        "cells": np.array([-1, _CELLS, cell, _CELLS, cell], np.int64),
        "last": np.array([3], np.int64),
        "pattern": pattern,
        "weights": weights,
        "bias": bias,
    }
    nodes = [
        helper.make_node("Cast", ["faces"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "half"], ["centred"]),
        helper.make_node("Div", ["centred", "half"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "cells"], ["split"]),
        helper.make_node("ReduceMean", ["split"], ["pooled"], axes=[2, 4], keepdims=0),
        helper.make_node("Unsqueeze", ["pooled", "last"], ["column"]),
        helper.make_node("Mul", ["column", "pattern"], ["features"]),
        helper.make_node("ReduceMean", ["features"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["raw"]),
        helper.make_node("Add", ["raw", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("faces", TensorProto.UINT8, ["N", FACE_SIZE, FACE_SIZE])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes]),
            helper.make_tensor_value_info(
                "features", TensorProto.FLOAT, ["N", _CELLS, _CELLS, _CHANNELS]
            ),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def write_tiny_model(
    folder: Path, labels: Sequence[str], temperature: float, thresholds: Mapping[str, float]
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MODEL_NAME
    path.write_bytes(tiny_onnx(len(labels)))
    manifest = Manifest(
        name=folder.name,
        version="0.0.1",
        created="2025-01-01",
        file=ModelFile.of(path),
        labels=tuple(labels),
        temperature=temperature,
        thresholds=thresholds,
    )
    write_manifest(folder, manifest)
    return folder
