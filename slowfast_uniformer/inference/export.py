"""Programs that run where this package is not: ONNX, and PyTorch's exported programs. Each tells how a clip
is made of a video, and what the classes are called."""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from slowfast_uniformer import __version__
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.predictor import Predictor

ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2"}  # of each format's files
TOLERANCE = 1e-4  # of the largest logit
LARGEST = 1_900_000_000  # bytes of weights in one ONNX file, which must be below 2 GiB
KEY = "slowfast_uniformer"  # of the metadata; in a .pt2 a file of that name with .json
INPUT, OUTPUT = "clips", "logits"


class Exported(NamedTuple):
    """What was written: the size in bytes, ONNX's opset, the largest deviation from PyTorch's logits as a
    fraction of the largest of a batch, and on how many clips that was found."""

    size: int
    opset: int | None
    deviation: float
    clips: int


def export(model: Predictor, form: str, output: str, videos: Sequence[Sample] = ()) -> Exported:
    """Write a model in fp32 on the CPU as a program of any batch size, when its logits agree with PyTorch's.

    They are compared on all views of `videos`, or on noise where there are none. ONNX beyond 2 GB has its
    weights in OUTPUT.data. Raises UserError for a model that cannot be exported or does not agree, a video
    that cannot be read, and what cannot be written; then there is no file.
    """
    if form == "onnx":
        _need_onnx()
    for video in videos:  # sooner than after minutes
        model.open(video).close()
    network = model.model.fuse() if hasattr(model.model, "fuse") else model.model
    about = json.dumps(description(model))
    program = _traced(network, _noise(model, 2), model.cfg.MODEL.MODEL_NAME)
    folder, name = os.path.split(output)
    try:
        os.makedirs(folder or ".", exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder or ".", prefix=".export") as beside:
            path = os.path.join(beside, name)
            opset = None
            if form == "onnx":
                opset = _write_onnx(program, path, about)
            else:
                program.example_inputs = None  # which would be in the file
                torch.export.save(program, path, extra_files={f"{KEY}.json": about})
            run = _onnx_runner(path) if form == "onnx" else torch.export.load(path).module()
            deviation, count = _deviation(model.model, run, _batches(model, videos))
            if not deviation <= TOLERANCE:  # nor if it is no number
                raise UserError(
                    f"the exported program's logits deviate by {deviation:.1e} of the largest, more than "
                    f"{TOLERANCE:g}: {output} is not written"
                )
            files = sorted(os.listdir(beside), key=len, reverse=True)  # weights before what needs them
            size = sum(os.path.getsize(os.path.join(beside, file)) for file in files)
            for file in files:
                os.replace(os.path.join(beside, file), os.path.join(folder, file))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from None
    return Exported(size, opset, deviation, count)


def description(model: Predictor) -> dict[str, Any]:
    """What users of the file must know: classes, input, output, and how testing makes one clip of a video."""
    cfg, data = model.cfg, model.cfg.DATA
    side = data.TEST_CROP_SIZE
    kind = annotations.format_of(cfg, "test").sampling
    sampling: dict[str, Any] = {"kind": kind}
    if kind == "dense":
        sampling["rate"] = data.SAMPLING_RATE
        sampling["start"] = "centre" if data.USE_OFFSET_SAMPLING else "beginning"
        sampling["target_fps"] = data.TARGET_FPS if data.SAMPLE_BY_FPS else None
    lowest, highest = ([(x - m) / s for m, s in zip(data.MEAN, data.STD, strict=True)] for x in (0, 1))
    return {
        "program": f"slowfast_uniformer {__version__}",
        "model": cfg.MODEL.MODEL_NAME,
        "weights": model.checksum,
        "classes": model.names,
        "input": {
            "name": INPUT,
            "type": "float32",
            "axes": "batch, channel, frame, row, column",
            "shape": ["batch", 3, data.NUM_FRAMES, side, side],
            "range": [min(lowest), max(highest)],
        },
        "output": {
            "name": OUTPUT,
            "shape": ["batch", cfg.MODEL.NUM_CLASSES],
            "probabilities": "sigmoid" if data.MULTI_LABEL else "softmax",
        },
        "preprocessing": {
            "frames": data.NUM_FRAMES,
            "sampling": sampling,
            "resize": {"short_side": side, "method": "bilinear, half-pixel centres, not antialiased"},
            "crop": {"size": side, "place": "centre"},
            "divide_by": 255,
            "mean": list(data.MEAN),
            "std": list(data.STD),
            "channels": "BGR" if data.REVERSE_INPUT_CHANNEL else "RGB",
        },
        "test_views": {
            "temporal": cfg.TEST.NUM_ENSEMBLE_VIEWS,
            "spatial": cfg.TEST.NUM_SPATIAL_CROPS,
            "ensemble": data.ENSEMBLE_METHOD,
        },
    }


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
    found, count = [], 0
    for clips in batches:
        expected = model(clips)
        found.append((run(clips) - expected).abs().max() / expected.abs().max())
        count += len(clips)
    return float(torch.stack(found).max()), count  # which is no number where one is not


# -------------------------------------------------------------------------------------------------- tracing
@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say of their own optimizations."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _traced(network: nn.Module, example: Tensor, name: str) -> ExportedProgram:
    """The graph of a model in evaluation mode, with any number of clips."""
    try:
        with _quiet():
            sizes = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(network, (example,), dynamic_shapes=sizes)
    except Exception as error:  # a model that does not fit raises nearly anything
        raise UserError(f"{name} cannot be exported: {str(error).strip().splitlines()[0]}") from error
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error}; pip install 'slowfast_uniformer[export]'") from None


def _write_onnx(program: ExportedProgram, path: str, about: str) -> int:
    """Returns the opset."""
    with _quiet():
        found = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    found.model.metadata_props[KEY] = about
    weights = sum(value.nbytes for value in program.state_dict.values())
    found.save(path, external_data=weights > LARGEST)
    return found.model.opset_imports[""]


def _onnx_runner(path: str) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run([OUTPUT], {INPUT: clips.numpy()})[0])
