"""A web page that classifies uploaded videos and shows a timeline and where the model looks."""

import functools
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slowfast_uniformer import terminal
from slowfast_uniformer.data.folders import VIDEO_ENDINGS
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.explain import explain, write_overlay
from slowfast_uniformer.inference.predict import GREY, clock, main_classes, predict
from slowfast_uniformer.inference.predictor import Predictor, as_sample, duration, fps_of
from slowfast_uniformer.wording import counted

logger = logging.getLogger(__name__)
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]


def serve(model: Predictor, host: str, port: int, max_mb: int, max_seconds: float) -> None:
    """Serve the page until SIGTERM or SIGINT, which end this process.

    All files are written to a temporary folder of this process, which is removed at the end.

    Args:
        model: a loaded model.
        host, port: where to listen.
        max_mb: of an upload.
        max_seconds: of a video.

    Raises:
        UserError: the address is not available, or Gradio is not installed.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot listen there: {why}") from None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="slowfast_uniformer_app_", ignore_cleanup_errors=True) as folder:
        gradio = import_gradio(folder)
        # Fonts of the visitor's system, so that none is fetched, and grey text with more contrast
        grey = {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_300"}
        theme = gradio.themes.Default(primary_hue="blue", font=FONTS, font_mono=FONTS).set(**grey)
        page = build(gradio, model, max_mb, max_seconds, folder)
        page.queue(default_concurrency_limit=1, max_size=20)
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=max_mb * 1024**2,
            css=Path(__file__).with_suffix(".css").read_text(encoding="utf-8"),
            theme=theme,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
        )
        if host not in ("127.0.0.1", "::1", "localhost"):
            terminal.show("warning: everybody who can reach this machine can use the page", error=True)
        terminal.show(f"the page is at {page.local_url} (end it with Ctrl-C)")
        stop.wait()
    os._exit(0)  # an ordinary exit waits for a running prediction, or stops it inside native code


def import_gradio(folder: str) -> Any:
    """Import Gradio so that it writes to `folder` and makes no requests. UserError if it is not installed."""
    served = os.path.join(folder, "served")
    os.environ |= {"GRADIO_TEMP_DIR": served, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    tempfile.tempdir = folder  # for other libraries of this process, too
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"the page needs Gradio: pip install 'slowfast_uniformer[app]' ({error})") from None
    return gradio


@functools.cache
def _html() -> Any:
    """The macros of web_app.html, as functions that return HTML."""
    import jinja2

    loader = jinja2.FileSystemLoader(os.path.dirname(__file__))
    return jinja2.Environment(loader=loader, autoescape=True).get_template("web_app.html").module


def build(gradio: Any, model: Predictor, max_mb: int, max_seconds: float, folder: str) -> Any:
    """The page: an upload, and the outputs that `_updates` fills."""
    file = os.path.join(*os.path.normpath(model.path).split(os.sep)[-3:])
    title = f"{model.cfg.MODEL.MODEL_NAME}, {counted(len(model.names), 'class')}, {file}"
    hidden = {"visible": "hidden"}
    with gradio.Blocks(title="What does this video show?", delete_cache=(60, 1800)) as page:  # seconds
        gradio.HTML(_html().head(title), elem_id="head")
        with gradio.Row():
            with gradio.Column(min_width=300, scale=2):
                video = gradio.File(
                    label="Video", file_types=["video", *sorted(VIDEO_ENDINGS)], elem_id="video", height=170
                )
                limits = _html().note(f"At most {clock(max_seconds)} and {max_mb} MB.")
                outputs = {"note": gradio.HTML(limits, elem_id="note")}
                with gradio.Accordion(f"Classes: {len(model.names)}", open=False, elem_id="classes"):
                    gradio.HTML(_html().class_names(sorted(model.names)))
            with gradio.Column(min_width=300, scale=3):
                outputs["top"] = gradio.Label(label="It shows", num_top_classes=5, elem_id="top", **hidden)
                outputs["timeline"] = gradio.HTML(elem_id="timeline", **hidden)
                player = {"autoplay": True, "loop": True, "buttons": [], "interactive": False, "height": 340}
                outputs["overlay"] = gradio.Video(label="Where the model looks", elem_id="overlay", **player, **hidden)
                outputs["about"] = gradio.HTML(elem_id="about", **hidden)

        def show(path: str | None) -> Iterator[dict[Any, Any]]:
            """Update all outputs, each time that more is known; those without a value are hidden."""
            for values in _updates(model, path, max_seconds, folder) if path else [{}]:
                yield {
                    output: gradio.update(visible=True if name in values else "hidden", value=values.get(name))
                    for name, output in outputs.items()
                }

        events = [video.upload, video.clear]
        gradio.on(events, show, video, list(outputs.values()), show_progress="hidden", api_visibility="private")
    return page


def _updates(model: Predictor, path: str, max_seconds: float, folder: str) -> Iterator[dict[str, Any]]:
    """Values of the page's outputs for an uploaded video, each time that more is known; one sentence on an error."""
    try:
        yield from _results(model, path, max_seconds, folder)
    except UserError as error:
        yield {"note": _html().note(str(error).replace(path, os.path.basename(path)), bad=True)}
    except Exception:
        logger.exception("%s could not be classified", path)
        yield {"note": _html().note("This video could not be classified; the server's log says why.", bad=True)}


def _results(model: Predictor, path: str, max_seconds: float, folder: str) -> Iterator[dict[str, Any]]:
    yield {"note": _html().note("Classifying …")}
    sample = as_sample(path, model.cfg)
    with model.open(sample) as video:
        fps, seconds = fps_of(video), duration(video)
    if seconds > max_seconds:
        raise UserError(f"This video is {clock(seconds)} long; at most {clock(max_seconds)} are taken.")
    # At most 60 windows side by side; with overlap there are about twice as many
    window = max(model.clip_seconds(fps), seconds / 60)
    (prediction,) = predict(model, [sample], topk=5, longer_than=10.0, window=window)
    row = prediction.row
    if "error" in row:
        raise UserError(row["error"])
    values = {"top": {each["class"]: each["probability"] for each in row["topk"]}}
    if "timeline" in row:
        values["timeline"] = _timeline(row["timeline"])
    yield values | {"note": _html().note("Drawing where the model looks …")}
    moment = None  # of a long video, the middle of the span in which its class is most probable
    if prediction.spans:
        best = max(prediction.spans, key=lambda span: float(span.probabilities[row["label"]]))
        moment = (best.start + best.end) / 2
    try:
        explanation = explain(model, sample, row["label"], at=moment)
        shown = explanation.select()
        first, last = (clock(explanation.numbers[i] / fps) for i in (0, -1))
        about = f"{first} to {last}: {shown.kind}, {shown.title}; most where it is red."
        with tempfile.TemporaryDirectory(dir=folder) as own:  # Gradio takes a copy
            overlay = os.path.join(own, "overlay.mp4")
            write_overlay(model, explanation, overlay, with_caption=False)
            yield values | {"overlay": overlay, "about": _html().small(about)}
    except UserError as error:  # a model without maps
        yield values | {"about": _html().small(str(error))}


def _timeline(parts: list[dict[str, Any]]) -> str:
    """Segments (see `predict.segments`) as a colored strip, and the seconds of each of the main classes."""
    seconds, colors = main_classes(parts)
    names = {part["label"]: part["class"] for part in parts}
    legend = [(color, names[label], seconds[label]) for label, color in colors.items()]
    if others := sum(seconds[label] for label in seconds if label not in colors):
        legend.append((GREY, "others", others))
    return _html().timeline(parts, colors, GREY, legend, clock)
