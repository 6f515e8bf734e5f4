"""An exported model in 8-bit integers: a quarter of the size, and less time a face.

Static quantisation (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference"): weights per output channel, activations per tensor, their
ranges from Training images.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.core.calibration import softmax
from mien.core.errors import MissingExtra, ModelError, UsageError
from mien.core.manifest import INPUT_CONTRACT, load_manifest
from mien.core.process import disable_telemetry
from mien.training.distillation import open_onnx
from mien.training.export import check_target, classify_with, publish
from mien.training.onnx_join import PREFIX, keep, rename

if TYPE_CHECKING:
    from mien.data.dataset import Split

LIMIT_POINTS = 0.5
"""How many points of accuracy the 8-bit model may lose."""

CALIBRATION_IMAGES = 128
TRIAL_IMAGES = 512
PERCENTILES: tuple[float, ...] = (99.9, 99.99, 99.999)
"""Of a tensor's values, how many lie within its range: a rare one beyond it would coarsen all.
Each is tried."""

OPERATORS: tuple[str, ...] = (
    "Add", "Concat", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "Mul", "Relu",
    "Resize", "Sigmoid",
)  # fmt: skip
"""Kinds of nodes that compute in 8 bits; scaling at the ends and BatchNorm stay as they are."""

FLOAT_LAYERS: tuple[str, ...] = (
    "faces", "enlarge", "three_channels", "rescaling", "normalization",
)  # fmt: skip
"""Beginnings of the names of layers that stay float32: those that prepare the input."""

SENSITIVE_LAYERS: tuple[str, ...] = ("stem", "block1a_dwconv", "block1a_bn", "block1a_activation")
"""These stay float32 too where a network has depthwise convolutions, whose channels differ much."""

_BATCH = 32
_INPUT = INPUT_CONTRACT["name"]
_SCALINGS = ("Mul", "Sub", "Add", "Div")


def export_int8(
    folder: Path, output: Path, *, train: Split, val: Split, limit: float = LIMIT_POINTS
) -> Path:
    """Make the 8-bit model of an exported one.

    Args:
        folder: the exported model's.
        output: where the new one goes; a model there is replaced.
        train: images that give the ranges, `CALIBRATION_IMAGES` of them drawn with a fixed seed;
            by `TRIAL_IMAGES` others, the one of `PERCENTILES` is chosen that changes
            probabilities least.
        val: images on which both are compared.
        limit: how many points of accuracy it may lose there.

    Returns:
        ``output``. Its manifest is the other's but for the file, ``precision`` and
        ``metrics.quantization``: temperatures and thresholds stay.

    Raises:
        ModelError: if the model is damaged, cannot be quantised, or loses more than the limit; then
            nothing is written.
        UsageError: if there are no images, or the output is a folder of something else.
        OutputError: if it cannot be written.
        MissingExtra: if onnx is not installed.
    """
    if not len(train) or not len(val):
        raise UsageError("expected images of train and of val to make an 8-bit model with")
    check_target(output)
    manifest = load_manifest(folder, labels=None)
    network = folder / manifest.file.name
    outputs = [manifest.with_reading(name).outputs["logits"] for name in manifest.readings]
    drawn = np.random.default_rng(0).permutation(len(train))
    chosen, trial = drawn[:CALIBRATION_IMAGES], drawn[CALIBRATION_IMAGES:][:TRIAL_IMAGES]
    images = train.images[trial if len(trial) else chosen]
    expected = _probabilities(network, images, outputs)
    tried = {}
    with tempfile.TemporaryDirectory() as place:
        for percentile in PERCENTILES:
            path = Path(place, f"{percentile}.onnx")
            quantise(network, path, train.images[chosen], percentile=percentile)
            change = float(np.abs(_probabilities(path, images, outputs) - expected).mean())
            tried[percentile] = (change, path.read_bytes())
    best = min(tried, key=lambda percentile: tried[percentile][0])

    def prove(new: Path) -> dict[str, Any]:
        figures = _compare(folder, new, val, limit, manifest.readings)
        counts = {"calibration_images": len(chosen), "percentile": best}
        return {"quantization": {**figures, **counts}}

    return publish(output, tried[best][1], dataclasses.replace(manifest, precision="int8"), prove)


def _probabilities(
    path: Path, images: npt.NDArray[np.uint8], outputs: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return the probabilities by every reading, (readings, N, classes)."""
    networks = [open_onnx(path, batch=_BATCH, output=output) for output in outputs]
    return np.stack([softmax(network(images).astype(np.float64)) for network in networks])


def quantise(
    source: Path, target: Path, images: npt.NDArray[np.uint8], *, percentile: float = PERCENTILES[0]
) -> None:
    """Write the 8-bit network of the float32 one in an ONNX file.

    The ranges of activations are those of images, uint8 (N, 48, 48), at least one; this percentage
    of a tensor's values lies within its range.

    Raises:
        ModelError: if it cannot be quantised.
        MissingExtra: if onnx is not installed.
    """
    disable_telemetry()
    try:
        import onnx
        from onnxruntime import quantization  # noqa: TID251
        from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: TID251
    except ImportError as error:
        raise MissingExtra("train", "making an 8-bit network") from error

    # Batches of one size, or one of all where there are few: the histograms need them so.
    whole = len(images) // _BATCH * _BATCH or len(images)
    inputs = iter([{_INPUT: images[start:][:_BATCH]} for start in range(0, whole, _BATCH)])
    with tempfile.TemporaryDirectory() as place, _silent():
        slim, ready = Path(place, "slim.onnx"), Path(place, "ready.onnx")
        network = onnx.load(source)
        notes = {entry.key: entry.value for entry in network.metadata_props}
        without_reshapes(network)
        onnx.save(network, slim)
        try:
            quant_pre_process(str(slim), str(ready), skip_symbolic_shape=True)
            network = onnx.load(ready)
            with_one_channel(network)
            onnx.save(network, ready)
            quantization.quantize_static(
                str(ready),
                str(target),
                SimpleNamespace(get_next=lambda: next(inputs, None)),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=layers_left(network),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": percentile},
            )
        except Exception as error:  # its errors, and ONNX Runtime's, share no nearer base
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ModelError(f"{source} cannot be quantised: {reason}") from error
        small = onnx.load(target)
        del small.metadata_props[:]
        onnx.helper.set_model_props(small, {**notes, "precision": "int8"})
        onnx.save(small, target)


def layers_left(network: Any) -> list[str]:
    """Return the names of the nodes that stay float32."""
    nodes = network.graph.node
    groups = (entry.i for node in nodes for entry in node.attribute if entry.name == "group")
    depthwise = any(count > 1 for count in groups)
    beginnings = FLOAT_LAYERS + (SENSITIVE_LAYERS if depthwise else ())
    return [node.name for node in nodes if node.name.removeprefix(PREFIX).startswith(beginnings)]


def _compare(
    folder: Path, new: Path, val: Split, limit: float, readings: Sequence[str]
) -> dict[str, Any]:
    """Return both accuracies, how often both agree, and the loss; refuse one above the limit.

    The accuracy is by the first reading, whose labels ``val`` has.
    """
    agreement, right = {}, []
    for name in readings:
        old, small = (
            classify_with(each, val.images, reading=name).argmax(axis=1) for each in (folder, new)
        )
        agreement[name] = float((old == small).mean())
        right += [int((answer == val.labels).sum()) for answer in (old, small)]
    points = 100 * (right[0] - right[1]) / len(val)
    if points > limit:
        raise ModelError(
            f"the 8-bit model is refused: on {len(val):,} images of {val.name} it loses "
            f"{points:.3f} points of accuracy, expected at most {limit:g}"
        )
    return {
        "split": val.name,
        "images": len(val),
        "accuracy_float32": right[0] / len(val),
        "accuracy_int8": right[1] / len(val),
        "points_lost": points,
        "agreement": agreement[readings[0]],
        "agreements": agreement,
    }


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the quantiser, which prints its steps and hints at what is done here already."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


# ---------------------------------------------------------------- work that changes no answer
# A float network keeps it, since training goes on from its weights by their Keras names.
def without_reshapes(network: Any) -> None:
    """Remove squeeze-and-excite's flatten and reshape to 1x1, which split an 8-bit network."""
    graph = network.graph
    made_by = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    renamed, gone = {}, set()
    for node in graph.node:
        flatten = made_by.get(node.input[0]) if node.op_type == "Reshape" else None
        if flatten is None or flatten.op_type != "Flatten" or uses[flatten.output[0]] != 1:
            continue
        pool = made_by.get(flatten.input[0])
        if pool is not None and pool.op_type == "GlobalAveragePool":
            renamed[node.output[0]] = pool.output[0]
            gone |= {node.output[0], flatten.output[0]}
    keep(graph.node, [node for node in graph.node if node.output[0] not in gone])
    rename(graph.node, renamed)
    needed = {name for node in graph.node for name in node.input}
    keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])


def with_one_channel(network: Any) -> None:
    """Give a network that repeats the grey image as channels one channel.

    Only where all are scaled alike before the first convolution, whose kernels are then summed.
    BatchNorm and constants must be folded already.
    """
    from onnx import numpy_helper

    graph = network.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    repeat = next((node for node in graph.node if _repeats(node)), None)
    if repeat is None:
        return
    changed, name = {}, repeat.output[0]
    while uses[name] == 1:
        node = next(node for node in graph.node if name in node.input)
        if node.op_type == "Conv":
            break
        constants = [each for each in node.input if each in weights]
        values = [numpy_helper.to_array(weights[each]) for each in constants]
        alike = len(values) == 1 and np.unique(values[0]).size == 1 and uses[constants[0]] == 1
        if node.op_type not in _SCALINGS or not alike:
            return
        changed[constants[0]] = np.full((), values[0].flat[0], values[0].dtype)
        name = node.output[0]
    else:
        return
    kernel = numpy_helper.to_array(weights[node.input[1]])
    if kernel.shape[1] != len(repeat.input):
        return
    changed[node.input[1]] = kernel.sum(axis=1, keepdims=True)
    for each, value in changed.items():
        weights[each].CopyFrom(numpy_helper.from_array(value, each))
    graph.node.remove(repeat)
    rename(graph.node, {repeat.output[0]: repeat.input[0]})
    del graph.value_info[:]  # shapes that were inferred before are now others


def _repeats(node: Any) -> bool:
    along = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    return node.op_type == "Concat" and along == [1] and len({*node.input}) == 1
