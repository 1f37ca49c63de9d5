"""The web page, driven in a browser, and its server."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import pytest
import torch
import video_factory
from conftest import ROOT

from slowfast_uniformer import load_model
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.predict import segments
from slowfast_uniformer.inference.predictor import Span
from slowfast_uniformer.inference.web_app import _timeline, import_gradio, serve

OWN = "slowfast_uniformer_app_*"
OPTIONS = ("--max-mb", "1", "--max-seconds", "14")


@pytest.fixture(scope="module")
def app(trained, tmp_path_factory):
    """The running app: its address, and the folder for temporary files that it was given."""
    temporary = tmp_path_factory.mktemp("temporary")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "slowfast_uniformer", "app", "--checkpoint", trained, "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "GRADIO_TEMP_DIR": "/nowhere"}
    process = subprocess.Popen([*command, *OPTIONS], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == f"the page is at http://127.0.0.1:{port}/ (end it with Ctrl-C)\n"
    yield f"http://127.0.0.1:{port}", temporary
    assert len(list(temporary.glob(OWN))) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 0 and process.stdout.read() == ""
    assert not list(temporary.glob(OWN))


def drop(page, address: str, video) -> None:
    page.set_default_timeout(300_000)  # a busy machine is no failure
    page.goto(address)
    page.set_input_files("#video input[type=file]", video)


def test_a_video_is_classified(app, page, trained, demo, tmp_path):
    video = tmp_path / "-it's a 'b' .mp4"
    video.write_bytes(next((demo / "videos" / "left").iterdir()).read_bytes())
    prediction = load_model(trained).predict(video)
    drop(page, app[0], video)
    page.wait_for_selector("#overlay video")
    page.wait_for_selector("#about p")
    assert page.inner_text("#top h2").strip() == prediction["class"]
    shown = page.inner_text("#top")
    for each in prediction["topk"]:
        assert each["class"] in shown and f"{each['probability']:.0%}" in shown
    page.wait_for_function("document.querySelector('#overlay video').videoWidth == 180")
    assert "attention rollout, stage 3" in page.inner_text("#about")
    assert not page.is_visible("#timeline") and not page.is_visible("#note")
    assert not page.is_visible(".names")
    page.click("#classes button")
    assert page.inner_text(".names").split() == sorted(path.name for path in (demo / "videos").iterdir())


@pytest.mark.slow
def test_a_long_video_gets_a_timeline_on_a_phone(app, page, tmp_path):
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme="dark")
    drop(page, app[0], video_factory.write_video(tmp_path / "long.mp4", frames=300))
    page.wait_for_selector("#timeline .strip span")
    assert page.inner_text("#timeline .ends").split() == ["0:00", "0:12"]
    page.wait_for_selector("#about p")
    assert page.evaluate("document.documentElement.scrollWidth") == 400


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.mp4", "cannot read no.mp4: a text, not a video: 'no video'"),
        ("too_long.mp4", "This video is 0:16 long; at most 0:14 are taken."),
    ],
)
def test_one_sentence_for_what_cannot_be_classified(app, page, tmp_path, name, message):
    (tmp_path / "no.mp4").write_text("no video")
    if name == "too_long.mp4":
        video_factory.write_video(tmp_path / name, frames=400)
    drop(page, app[0], tmp_path / name)
    page.wait_for_selector("#note [role=alert]")
    assert page.inner_text("#note") == message and not page.is_visible("#top")


@pytest.mark.slow
def test_the_page_says_that_a_file_is_too_large(app, page, tmp_path):
    (tmp_path / "huge.mp4").write_bytes(bytes(2**20 + 1))
    drop(page, app[0], tmp_path / "huge.mp4")
    page.wait_for_selector("text=exceed the maximum allowed size")


def upload(address: str, name: str, content: bytes) -> str:
    """What the server says to a file that was not sent by its page."""
    head = f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--edge--\r\n"
    request = urllib.request.Request(f"{address}/gradio_api/upload", body)
    request.add_header("Content-Type", "multipart/form-data; boundary=edge")
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


def test_the_server_refuses_what_is_too_large_and_keeps_names_in_its_folder(app, tmp_path):
    address, temporary = app
    with pytest.raises(urllib.error.HTTPError, match="413"):
        upload(address, "huge.mp4", bytes(2**20 + 1))
    for name in ("../../../x.mp4", f"{tmp_path}/x.mp4", "..\\x.mp4"):
        (place,) = [word for word in upload(address, name, b"content").split('"') if "mp4" in word]
        assert os.path.realpath(place).startswith(str(temporary)) and os.path.isfile(place)
    assert not list(tmp_path.iterdir())


def test_names_of_classes_are_text_on_the_page():
    spans = [Span(0, 4, torch.tensor([0.9, 0.1])), Span(4, 10, torch.tensor([0.2, 0.8]))]
    drawn = _timeline(segments(spans, ["<b>", 'a"b']))
    assert "<b>" not in drawn and "&lt;b&gt;" in drawn and 'a"b' not in drawn
    assert drawn.index("a&#34;b</td><td>0:06") < drawn.index("&lt;b&gt;</td><td>0:04")


def test_without_gradio_it_says_what_to_install(monkeypatch, tmp_path):
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")  # so that it is restored
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'slowfast_uniformer\[app\]'"):
        import_gradio(str(tmp_path))


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: cannot listen there: Address already in use"):
            serve(None, "127.0.0.1", port, 1, 1.0)
