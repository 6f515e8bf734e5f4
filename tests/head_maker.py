"""Small ONNX network with a head like mien's: pooling, dense, BatchNorm, ReLU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mien.core.emotions import EMOTIONS
from mien.core.images import FACE_SIZE
from mien.core.manifest import Manifest, ModelFile, write_manifest
from mien.core.models import MODEL_NAME

CELLS, CHANNELS, UNITS = 3, 5, 16
EPSILON = 0.01


def head_onnx(
    *, float_data: bool = False, activation: str = "Relu", seed: int = 3, stray: bool = False
) -> bytes:
    """Build a network with a channels-first feature map and a deep head of fixed noise.

    Args:
        float_data: store weights as numbers in fields instead of raw bytes.
        activation: between the dense layers.
        seed: of the noise.
        stray: take the logits from another map than ``features``.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    noise = np.random.default_rng(seed)
    classes, cell = len(EMOTIONS), FACE_SIZE // CELLS
    weights: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
        "pattern": noise.normal(size=(CHANNELS, 1, 1)),
        "head1_dense/kernel": noise.normal(size=(CHANNELS, UNITS)),
        "head1_bn/gamma": noise.uniform(0.5, 2, UNITS),
        "head1_bn/beta": noise.normal(size=UNITS),
        "head1_bn/moving_mean": noise.normal(size=UNITS),
        "head1_bn/moving_variance": noise.uniform(0.2, 2, UNITS),
        "logits/kernel": noise.normal(size=(classes, UNITS)),  # transposed
        "logits/bias": noise.normal(size=classes),
        "scale": np.array(1 / 127.5),
        "stray": np.array(0.5),
    }
    sizes = {"cells": [-1, 1, CELLS, cell, CELLS, cell]}
    bn = [f"head1_bn/{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance")]
    nodes = [
        helper.make_node("Cast", ["faces"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "cells"], ["split"]),
        helper.make_node("ReduceMean", ["split"], ["means"], axes=[3, 5], keepdims=0),
        helper.make_node("Mul", ["means", "pattern"], ["waves"]),
        helper.make_node("Sin", ["waves"], ["map"]),
        helper.make_node("Mul", ["map", "stray"], ["other"]),
        helper.make_node("Transpose", ["map"], ["features"], perm=[0, 2, 3, 1]),
        helper.make_node("GlobalAveragePool", ["other" if stray else "map"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "head1_dense/kernel"], ["dense"]),
        helper.make_node("BatchNormalization", ["dense", *bn], ["normal"], epsilon=EPSILON),
        helper.make_node(activation, ["normal"], ["active"]),
        helper.make_node(
            "Gemm", ["active", "logits/kernel", "logits/bias"], ["logits"], transB=1, alpha=0.5
        ),
    ]
    tensors = [_tensor(name, value, float_data) for name, value in weights.items()]
    tensors += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in sizes.items()]
    value_info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "with_head",
        [value_info("faces", TensorProto.UINT8, ["N", FACE_SIZE, FACE_SIZE])],
        [
            value_info("logits", TensorProto.FLOAT, ["N", classes]),
            value_info("features", TensorProto.FLOAT, ["N", CELLS, CELLS, CHANNELS]),
        ],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())


def _tensor(name: str, value: Any, float_data: bool) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    array = np.asarray(value, np.float32)
    if not float_data:
        return numpy_helper.from_array(array, name)
    return helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.ravel().tolist())


def write_head_model(folder: Path, **options: Any) -> Path:
    """Write such a model, with its manifest, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MODEL_NAME
    path.write_bytes(head_onnx(**options))
    manifest = Manifest(
        name=folder.name,
        version="0.0.1",
        created="2025-01-01",
        file=ModelFile.of(path),
        temperature=1.3,
    )
    write_manifest(folder, manifest)
    return folder
