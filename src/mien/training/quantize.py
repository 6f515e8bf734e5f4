"""8-bit copy of an exported model: a quarter of the size, and less time per face.

Static quantisation (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference"): weights per output channel; activations per tensor, with ranges
from Training images.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.core.calibration import softmax
from mien.core.errors import ModelError, UsageError, error_reason, needs_extra
from mien.core.manifest import INPUT_CONTRACT, load_manifest
from mien.core.process import disable_telemetry
from mien.training.distillation import open_onnx
from mien.training.export import check_target, classify_with, write_model
from mien.training.onnx_graph import PREFIX, merge_grey_channels, remove_reshapes

if TYPE_CHECKING:
    from mien.data.dataset import Split

LIMIT_POINTS = 0.5
"""Largest loss of accuracy, in percentage points, of the 8-bit model."""

CALIBRATION_IMAGES = 128
TRIAL_IMAGES = 512
PERCENTILES: tuple[float, ...] = (99.9, 99.99, 99.999)
"""Percentages of a tensor's values within its range, each of which is tried: covering rare extreme
values would make all others coarser."""

OPERATORS: tuple[str, ...] = (
    "Add", "Concat", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "Mul", "Relu",
    "Resize", "Sigmoid",
)  # fmt: skip
"""Types of nodes that compute in 8 bits; scaling at the ends and BatchNorm stay float32."""

FLOAT_LAYERS: tuple[str, ...] = (
    "faces", "enlarge", "three_channels", "rescaling", "normalization",
)  # fmt: skip
"""Name prefixes of the layers that stay float32: those that prepare the input."""

SENSITIVE_LAYERS: tuple[str, ...] = ("stem", "block1a_dwconv", "block1a_bn", "block1a_activation")
"""Likewise in networks with depthwise convolutions, whose channels have very different ranges."""

_BATCH = 32
_INPUT = INPUT_CONTRACT["name"]


def export_int8(
    folder: Path, output: Path, *, train: Split, val: Split, limit: float = LIMIT_POINTS
) -> Path:
    """Make an 8-bit copy of an exported model.

    Args:
        folder: folder of the model.
        output: folder of the new one; a model there is replaced.
        train: images for the ranges, `CALIBRATION_IMAGES` of them drawn with a fixed seed; on
            `TRIAL_IMAGES` others, the one of `PERCENTILES` is chosen that changes the
            probabilities least.
        val: images on which both models are compared.
        limit: largest loss of accuracy there, in percentage points.

    Returns:
        ``output``. Its manifest differs in the file, ``precision`` and ``metrics.quantization``;
        temperatures and thresholds stay.

    Raises:
        ModelError: if the model is damaged, cannot be quantised, or loses more than the limit; then
            nothing is written.
        UsageError: if there are no images, or the output folder holds something else.
        OutputError: if it cannot be written.
        MissingExtra: if onnx is not installed.
    """
    if not len(train) or not len(val):
        raise UsageError("expected images of train and val to make an 8-bit model")
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
            quantize_network(network, path, train.images[chosen], percentile=percentile)
            change = float(np.abs(_probabilities(path, images, outputs) - expected).mean())
            tried[percentile] = (change, path.read_bytes())
    best = min(tried, key=lambda percentile: tried[percentile][0])

    def verify(new: Path) -> dict[str, Any]:
        figures = _compare(folder, new, val, limit, manifest.readings)
        counts = {"calibration_images": len(chosen), "percentile": best}
        return {"quantization": {**figures, **counts}}

    return write_model(
        output, tried[best][1], dataclasses.replace(manifest, precision="int8"), verify
    )


def _probabilities(
    path: Path, images: npt.NDArray[np.uint8], outputs: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return the probabilities of every reading, (readings, N, classes)."""
    networks = [open_onnx(path, batch=_BATCH, output=output) for output in outputs]
    return np.stack([softmax(network(images).astype(np.float64)) for network in networks])


def quantize_network(
    source: Path, target: Path, images: npt.NDArray[np.uint8], *, percentile: float = PERCENTILES[0]
) -> None:
    """Quantise a float32 ONNX file.

    Args:
        source: the float32 file.
        target: the 8-bit file to write.
        images: images that determine the ranges of activations, uint8 (N, 48, 48), at least one.
        percentile: percentage of a tensor's values within its range.

    Raises:
        ModelError: if it cannot be quantised.
        MissingExtra: if onnx is not installed.
    """
    disable_telemetry()
    with needs_extra("train", "making an 8-bit network"):
        import onnx
        from onnxruntime import quantization  # noqa: TID251
        from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: TID251

    # The quantiser's histograms need batches of equal size, or a single smaller one.
    used = len(images) // _BATCH * _BATCH or len(images)
    inputs = iter([{_INPUT: images[start:][:_BATCH]} for start in range(0, used, _BATCH)])
    with tempfile.TemporaryDirectory() as scratch, _quiet_quantizer():
        simplified, ready = Path(scratch, "simplified.onnx"), Path(scratch, "ready.onnx")
        network = onnx.load(source)
        properties = {entry.key: entry.value for entry in network.metadata_props}
        remove_reshapes(network)
        onnx.save(network, simplified)
        try:
            quant_pre_process(str(simplified), str(ready), skip_symbolic_shape=True)
            network = onnx.load(ready)
            merge_grey_channels(network)
            onnx.save(network, ready)
            quantization.quantize_static(
                str(ready),
                str(target),
                SimpleNamespace(get_next=lambda: next(inputs, None)),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=float_nodes(network),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": percentile},
            )
        except Exception as error:  # the quantiser's errors have no common base class
            raise ModelError(f"{source} cannot be quantised: {error_reason(error)}") from error
        quantized = onnx.load(target)
        del quantized.metadata_props[:]
        onnx.helper.set_model_props(quantized, {**properties, "precision": "int8"})
        onnx.save(quantized, target)


def float_nodes(network: Any) -> list[str]:
    """Return the names of the nodes that stay float32."""
    nodes = network.graph.node
    groups = (entry.i for node in nodes for entry in node.attribute if entry.name == "group")
    depthwise = any(count > 1 for count in groups)
    prefixes = FLOAT_LAYERS + (SENSITIVE_LAYERS if depthwise else ())
    return [node.name for node in nodes if node.name.removeprefix(PREFIX).startswith(prefixes)]


def _compare(
    folder: Path, new: Path, val: Split, limit: float, readings: Sequence[str]
) -> dict[str, Any]:
    """Return both accuracies by the first reading, their difference, and the models' agreement.

    Raises ModelError if the difference is above the limit.
    """
    agreement, correct = {}, []
    for name in readings:
        float32, int8 = (
            classify_with(model, val.images, reading=name).argmax(axis=1) for model in (folder, new)
        )
        agreement[name] = float((float32 == int8).mean())
        correct += [int((predicted == val.labels).sum()) for predicted in (float32, int8)]
    points = 100 * (correct[0] - correct[1]) / len(val)
    if points > limit:
        raise ModelError(
            f"the 8-bit model is refused: on {len(val):,} images of {val.name} it loses "
            f"{points:.3f} points of accuracy, expected at most {limit:g}"
        )
    return {
        "split": val.name,
        "images": len(val),
        "accuracy_float32": correct[0] / len(val),
        "accuracy_int8": correct[1] / len(val),
        "points_lost": points,
        "agreement": agreement[readings[0]],
        "agreements": agreement,
    }


@contextmanager
def _quiet_quantizer() -> Iterator[None]:
    """Suppress the quantiser's output: its steps, and advice that is followed here already."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
