"""A page on which people drop a video to see what it shows, for how long, and where the model looked."""

import html
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.explain import explain, write_overlay
from slowfast_uniformer.inference.predict import COLORS, GREY, VideoPrediction, clock, predict, segments
from slowfast_uniformer.inference.predictor import UNKNOWN_FPS, Predictor, Span, as_sample

logger = logging.getLogger(__name__)
TIMELINE = 10.0  # seconds; longer videos get a timeline
WINDOWS = 60  # at most about twice so many are looked at
KEPT = 1800  # seconds that uploads and overlays stay
LOCAL = ("127.0.0.1", "::1", "localhost")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
CSS = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
#head h1 { font-size: 1.7rem; font-weight: 650; margin: 0.4rem 0 0.2rem; }
#head p { color: var(--body-text-color-subdued); margin: 0; }
#note .note { border-left: 4px solid var(--color-accent); padding: 0.5rem 0.8rem; overflow-wrap: anywhere;
  background: var(--background-fill-secondary); border-radius: 4px; }
#note .bad { border-left-color: #c62828; }
.names { columns: 11rem; line-height: 1.6; overflow-wrap: anywhere; }
.strip { display: flex; height: 30px; border-radius: 6px; overflow: hidden; }
.strip span { border-right: 1px solid var(--background-fill-primary); min-width: 1px; }
.ends { display: flex; justify-content: space-between; color: var(--body-text-color-subdued);
  font-size: 0.85rem; margin: 0.2rem 0 0.5rem; }
.parts { width: 100%; border-collapse: collapse; font-size: 0.92rem; }
.parts, .parts tr, .parts td { border: 0 !important; }
.parts td { padding: 0.15rem 0.5rem 0.15rem 0; overflow-wrap: anywhere; }
.parts td:last-child { text-align: right; padding-right: 0; white-space: nowrap; }
.dot { display: inline-block; width: 0.75em; height: 0.75em; border-radius: 50%; margin-right: 0.5em; }
.title { font-weight: 600; margin: 0 0 0.5rem; }
.small { color: var(--body-text-color-subdued); font-size: 0.88rem; margin: 0; overflow-wrap: anywhere; }
"""


def serve(model: Predictor, host: str, port: int, max_mb: int, max_seconds: float) -> None:
    """Show the page until SIGTERM or SIGINT, which end this process. Everything that it writes is in a folder
    of its own, which is removed before. UserError if it cannot listen there."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot listen there: {why}") from None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="slowfast_uniformer_app_", ignore_cleanup_errors=True) as folder:
        gradio = imported(folder)
        page = build(gradio, model, max_mb, max_seconds, folder)
        page.queue(default_concurrency_limit=1, max_size=20)
        page.launch(
            server_name=host,
            server_port=port,
            max_file_size=max_mb * 1024**2,
            css=CSS,
            theme=_theme(gradio),
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
        )
        if host not in LOCAL:
            print("warning: whoever reaches this machine can use the page", file=sys.stderr)
        print(f"the page is at {page.local_url} (end it with Ctrl-C)", flush=True)
        stop.wait()
    os._exit(0)  # a thread that computes would be waited for, or torn down in the middle of native code


def imported(folder: str) -> Any:
    """Gradio, told to write into `folder` and to talk to nobody. UserError if it is not installed."""
    served = os.path.join(folder, "served")
    os.environ |= {"GRADIO_TEMP_DIR": served, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    tempfile.tempdir = folder  # for all that others write in this process
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"the page needs Gradio: pip install 'slowfast_uniformer[app]' ({error})") from None
    return gradio


def _theme(gradio: Any) -> Any:
    """Fonts of the visitor's system, so none is fetched, and grey text that can be read."""
    grey = {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_300"}
    return gradio.themes.Default(primary_hue="blue", font=FONTS, font_mono=FONTS).set(**grey)


def build(gradio: Any, model: Predictor, max_mb: int, max_seconds: float, folder: str) -> Any:
    """The page: a place to drop a video, and what there is to say about it."""
    with gradio.Blocks(title="What does this video show?", delete_cache=(60, KEPT)) as page:
        gradio.HTML(_head(model), elem_id="head")
        with gradio.Row():
            with gradio.Column(min_width=300, scale=2):
                video = gradio.File(label="Video", file_types=["video"], elem_id="video", height=170)
                note = gradio.HTML(_note(f"At most {clock(max_seconds)} and {max_mb} MB."), elem_id="note")
                with gradio.Accordion(f"The {len(model.names)} classes", open=False, elem_id="classes"):
                    gradio.HTML(_names(model.names))
            with gradio.Column(min_width=300, scale=3):
                top = gradio.Label(label="It shows", num_top_classes=5, visible="hidden", elem_id="top")
                timeline = gradio.HTML(visible="hidden", elem_id="timeline")
                overlay = gradio.Video(
                    label="Where the model looks",
                    visible="hidden",
                    autoplay=True,
                    loop=True,
                    buttons=[],
                    interactive=False,
                    height=340,
                    elem_id="overlay",
                )
                about = gradio.HTML(visible="hidden", elem_id="about")
        places = {"note": note, "top": top, "timeline": timeline, "overlay": overlay, "about": about}

        def show(path: str | None) -> Iterator[dict[Any, Any]]:
            """All of the page, each time that something more is known: what is not said is hidden."""
            for said in _said(model, path, max_seconds, folder) if path else [{}]:
                yield {
                    place: gradio.update(visible=True if name in said else "hidden", value=said.get(name))
                    for name, place in places.items()
                }

        gradio.on(
            [video.upload, video.clear],
            show,
            video,
            list(places.values()),
            show_progress="hidden",
            api_visibility="private",
        )
    return page


def _said(model: Predictor, path: str, max_seconds: float, folder: str) -> Iterator[dict[str, Any]]:
    """What there is to say of an uploaded video by places on the page, each time that more is known. Of what
    goes wrong one sentence."""
    try:
        yield from _answered(model, path, max_seconds, folder)
    except UserError as error:
        yield {"note": _note(str(error).replace(path, os.path.basename(path)), bad=True)}
    except Exception:
        logger.exception("%s could not be answered", path)
        yield {"note": _note("This video could not be answered; the server's log says why.", bad=True)}


def _answered(model: Predictor, path: str, max_seconds: float, folder: str) -> Iterator[dict[str, Any]]:
    yield {"note": _note("Watching …")}
    sample = as_sample(path, model.cfg)
    with model.open(sample) as source:
        fps = source.fps or UNKNOWN_FPS
        seconds = source.frames / fps
    if seconds > max_seconds:
        raise UserError(f"This video is {clock(seconds)} long; at most {clock(max_seconds)} are taken.")
    window = max(model.span(fps), seconds / WINDOWS)
    (answer,) = predict(model, [sample], topk=5, longer_than=TIMELINE, window=window)
    if "error" in answer.row:
        raise UserError(answer.row["error"])
    said = {"top": {each["class"]: each["probability"] for each in answer.row["topk"]}}
    if answer.spans:
        said["timeline"] = _timeline(answer.spans, model.names)
    yield said | {"note": _note("Drawing where the model looks …")}
    try:
        found = explain(model, sample, answer.row["label"], at=_moment(answer))
        shown = found.chosen()
        first, last = (clock(found.numbers[i] / fps) for i in (0, -1))
        words = f"{first} to {last}: {shown.kind}, {shown.title}; most where it is red."
        with tempfile.TemporaryDirectory(dir=folder) as own:  # of which the page takes a copy
            film = os.path.join(own, "overlay.mp4")
            write_overlay(model, found, film, caption=False)
            yield said | {"overlay": film, "about": _small(words)}
    except UserError as error:  # a model without maps
        yield said | {"about": _small(str(error))}


def _moment(answer: VideoPrediction) -> float | None:
    """The second at which a long video shows its class most clearly."""
    if not answer.spans:
        return None
    best = max(answer.spans, key=lambda span: float(span.probabilities[answer.row["label"]]))
    return (best.start + best.end) / 2


def _head(model: Predictor) -> str:
    file = os.path.join(*os.path.normpath(model.path).split(os.sep)[-3:])
    words = f"{model.cfg.MODEL.MODEL_NAME}, {len(model.names)} classes, {file}"
    return f"<h1>What does this video show?</h1><p>{html.escape(words)}</p>"


def _names(names: Sequence[str]) -> str:
    return f'<div class="names">{"<br>".join(map(html.escape, sorted(names)))}</div>'


def _note(words: str, bad: bool = False) -> str:
    kind = 'class="note bad" role="alert"' if bad else 'class="note" role="status"'
    return f"<div {kind}>{html.escape(words)}</div>"


def _small(words: str) -> str:
    return f'<p class="small">{html.escape(words)}</p>'


def _timeline(spans: Sequence[Span], names: Sequence[str]) -> str:
    """A strip of what is most probable as time goes by, and the seconds of each of the main classes."""
    parts, seconds = segments(spans, names), Counter()
    for part in parts:
        seconds[part["class"]] += part["end"] - part["start"]
    colors = {name: color for (name, _), color in zip(seconds.most_common(), COLORS, strict=False)}
    strip, rows = "", ""
    for part in parts:
        title = f"{part['class']}, {clock(part['start'])} to {clock(part['end'])}, {part['probability']:.0%}"
        width = part["end"] - part["start"]
        style = f"flex: {width:.3f} 0 0; background: {colors.get(part['class'], GREY)}"
        strip += f'<span style="{style}" title="{html.escape(title)}"></span>'
    for name, color in colors.items():
        dot = f'<span class="dot" style="background: {color}"></span>'
        rows += f"<tr><td>{dot}{html.escape(name)}</td><td>{clock(seconds[name])}</td></tr>"
    others = sum(seconds[name] for name in seconds.keys() - colors.keys())
    if others:
        dot = f'<span class="dot" style="background: {GREY}"></span>'
        rows += f"<tr><td>{dot}others</td><td>{clock(others)}</td></tr>"
    ends = f"<span>0:00</span><span>{clock(spans[-1].end)}</span>"
    return (
        f'<p class="title">As time goes by</p><div class="strip">{strip}</div><div class="ends">{ends}</div>'
        f'<table class="parts">{rows}</table>'
    )
