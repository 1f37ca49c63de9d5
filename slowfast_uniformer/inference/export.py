"""Export to ONNX and to PyTorch's exported programs, which run without this package.

The metadata of a file says how a clip is made from a video and what the classes are called.
"""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from slowfast_uniformer import __version__
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.errors import UserError, os_errors_reported
from slowfast_uniformer.inference.predictor import Predictor
from slowfast_uniformer.runs.log import Phase, progress

ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2"}  # of the files, by format
TOLERANCE = 1e-4  # of the largest logit
MAX_ONNX_BYTES = 1_900_000_000  # of weights in an ONNX file, which must be smaller than 2 GiB
METADATA = "slowfast_uniformer"  # property of an ONNX model; in a .pt2 the extra file of that name with .json
INPUT, OUTPUT, BATCH = "clips", "logits", "batch"


class Exported(NamedTuple):
    """What was written.

    Attributes:
        size: bytes.
        opset: of ONNX.
        deviation: the largest difference from PyTorch's logits, as a fraction of the largest logit of a batch.
        clips: how many it was measured on.
    """

    size: int
    opset: int | None
    deviation: float
    clips: int


def export(model: Predictor, file_format: str, output: str, videos: Sequence[Sample] = ()) -> Exported:
    """Write a model, in fp32 and on the CPU, as a program for any batch size, if its logits agree with PyTorch's.

    Args:
        model: a loaded model.
        file_format: "onnx" or "torch_export".
        output: the file to write. ONNX with more than 1.9 GB of weights keeps them beside it, in OUTPUT.data.
        videos: logits are compared on all their views; without videos on noise.

    Raises:
        UserError: the model cannot be exported or deviates by more than `TOLERANCE`, a video cannot be read, or the
            file cannot be written; then nothing is written.
    """
    onnx = file_format == "onnx"
    if onnx:
        try:
            for module in ("onnx", "onnxruntime", "onnxscript"):
                import_module(module)
        except ImportError as error:
            raise UserError(f"{error}; pip install 'slowfast_uniformer[export]'") from None
    for video in videos:  # to fail now and not minutes later
        model.open(video).close()
    network = model.model.fuse() if hasattr(model.model, "fuse") else model.model
    metadata = json.dumps(description(model))
    with Phase("trace the model"):
        program = _traced(network, _noise(model, 2), model.cfg.MODEL.MODEL_NAME)
    with _replaced_files(output) as path:
        with Phase(f"write {output}"):
            if onnx:
                opset, run = _write_onnx(program, path, metadata), _onnx_runner(path)
            else:
                program.example_inputs = None  # would be saved
                torch.export.save(program, path, extra_files={f"{METADATA}.json": metadata})
                opset, run = None, torch.export.load(path).module()
        batches = progress(_batches(model, videos), len(videos) or 2, "compare with PyTorch", "video", bar=False)
        deviation, count = _deviation(model.model, run, batches)
        if not deviation <= TOLERANCE:  # NaN deviates, too
            raise UserError(
                f"the exported program's logits deviate by {deviation:.1e} of the largest, more than "
                f"{TOLERANCE:g}: {output} is not written"
            )
        size = sum(entry.stat().st_size for entry in os.scandir(os.path.dirname(path)))
    return Exported(size, opset, deviation, count)


@contextmanager
def _replaced_files(output: str) -> Iterator[str]:
    """A path with the name of `output` in a temporary folder, whose files move beside it when the block succeeds.

    Not `atomic_output`, because an ONNX file contains the name of the file of its weights.
    """
    folder, name = os.path.split(output)
    with os_errors_reported(f"cannot write {output}"):
        os.makedirs(folder or ".", exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder or ".", prefix=".export") as temporary:
            yield os.path.join(temporary, name)
            for file in sorted(os.listdir(temporary), key=len, reverse=True):  # weights before the file that needs them
                os.replace(os.path.join(temporary, file), os.path.join(folder, file))


def description(model: Predictor) -> dict[str, Any]:
    """What users of the file need: classes, input, output, and how testing makes a clip from a video."""
    cfg, data = model.cfg, model.cfg.DATA
    side, probabilities = data.TEST_CROP_SIZE, "sigmoid" if data.MULTI_LABEL else "softmax"
    sampling: dict[str, Any] = {"kind": annotations.format_of(cfg, "test").sampling}
    if sampling["kind"] == "dense":
        sampling["rate"] = data.SAMPLING_RATE
        sampling["start"] = "centre" if data.USE_OFFSET_SAMPLING else "beginning"
        sampling["target_fps"] = data.TARGET_FPS if data.SAMPLE_BY_FPS else None
    shape = [BATCH, 3, data.NUM_FRAMES, side, side]
    clips = {"name": INPUT, "type": "float32", "axes": "batch, channel, frame, row, column", "shape": shape}
    lowest, highest = ([(x - m) / s for m, s in zip(data.MEAN, data.STD, strict=True)] for x in (0, 1))
    return {
        "program": f"slowfast_uniformer {__version__}",
        "model": cfg.MODEL.MODEL_NAME,
        "weights": model.checksum,
        "classes": model.names,
        "input": clips | {"range": [min(lowest), max(highest)]},
        "output": {"name": OUTPUT, "shape": [BATCH, cfg.MODEL.NUM_CLASSES], "probabilities": probabilities},
        "preprocessing": {
            "frames": data.NUM_FRAMES,
            "sampling": sampling,
            "resize": {"short_side": side, "method": "bilinear, half-pixel centres, not antialiased"},
            "crop": {"size": side, "place": "centre"},
            "divide_by": 255,
            "mean": list(data.MEAN),
            "std": list(data.STD),
            "channels": "BGR" if data.REVERSE_INPUT_CHANNEL else "RGB",
            "yuv_matrix_if_untagged": data.COLOR_MATRIX,
        },
        "test_views": {
            "temporal": cfg.TEST.NUM_ENSEMBLE_VIEWS,
            "spatial": cfg.TEST.NUM_SPATIAL_CROPS,
            "ensemble": data.ENSEMBLE_METHOD,
        },
    }


# -------------------------------------------------------------------------------------------- comparison
def _noise(model: Predictor, count: int) -> Tensor:
    shape = (count, 3, model.cfg.DATA.NUM_FRAMES, *[model.cfg.DATA.TEST_CROP_SIZE] * 2)
    return torch.randn(shape, generator=torch.Generator().manual_seed(count))


def _batches(model: Predictor, videos: Sequence[Sample]) -> Iterator[Tensor]:
    """All views of each video, or noise in batches of 1 and 3."""
    if not videos:
        yield from (_noise(model, count) for count in (1, 3))
    for clips in model.clips(videos):
        if isinstance(clips, UserError):
            raise clips
        yield clips


@torch.inference_mode()
def _deviation(model: nn.Module, run: Callable, batches: Iterable[Tensor]) -> tuple[float, int]:
    """The largest relative deviation of `run` from the model, NaN if any is NaN, and the number of clips."""
    found, count = [], 0
    for clips in batches:
        expected = model(clips)
        found.append((run(clips) - expected).abs().max() / expected.abs().max())
        count += len(clips)
    return float(torch.stack(found).max()), count


# ------------------------------------------------------------------------------------ tracing and writing
@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own optimizations."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _traced(network: nn.Module, example: Tensor, name: str) -> ExportedProgram:
    """The graph of a model in evaluation mode, for any batch size."""
    try:
        with _quiet():
            sizes = ({0: torch.export.Dim(BATCH)},)
            program = torch.export.export(network, (example,), dynamic_shapes=sizes)
    except Exception as error:  # tracing raises nearly anything
        raise UserError(f"{name} cannot be exported: {str(error).strip().splitlines()[0]}") from error
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # contains paths of this machine
    return program


def _write_onnx(program: ExportedProgram, path: str, metadata: str) -> int:
    """Returns the opset."""
    with _quiet():
        names = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamic_shapes": ({0: BATCH},)}
        found = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    found.model.metadata_props[METADATA] = metadata
    weights = sum(value.nbytes for value in program.state_dict.values())
    found.save(path, external_data=weights > MAX_ONNX_BYTES)
    return found.model.opset_imports[""]


def _onnx_runner(path: str) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run([OUTPUT], {INPUT: clips.numpy()})[0])
