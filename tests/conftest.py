"""What tests share: the checkout's scripts as modules, a tiny demo data set, a config that trains on it, and
a browser."""

import importlib.util
import os
import shutil
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SLOWFAST_UNIFORMER_OFFLINE"] = "1"  # nothing is fetched unless a test has a server for it
ROOT = Path(__file__).resolve().parents[1]
VIDEOS = {"train": 16, "val": 9}  # 9: not divisible among two processes


def pytest_collection_modifyitems(items: list) -> None:
    """The files with slow tests come first, so that processes which share the tests end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def load_script(path: str):
    """A script of the checkout as a module, without running it."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def config_with(**keys):
    """The defaults with some keys changed, named with __ for the dot."""
    from slowfast_uniformer.config.keys import get_cfg

    cfg = get_cfg()
    for key, value in keys.items():
        section, name = key.split("__")
        cfg[section][name] = value
    return cfg


def exit_status(call) -> int:
    """The exit status of a command: of `call()`, with errors handled as the console script does."""
    from slowfast_uniformer.cli.common import finish

    try:
        finish(call)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(autouse=True)
def process_state():
    """A test leaves the package's logger and the handlers of signals as they were. What is ignored would be so in
    processes that are started later, too, and a pool of them would wait for ever for its workers to end."""
    from slowfast_uniformer.distributed.signals import SIGNALS

    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    if log := sys.modules.get("slowfast_uniformer.runs.log"):
        log.remove_logging()


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """A demo data set of a few small videos."""
    out = tmp_path_factory.mktemp("data") / "demo"
    load_script("datasets/make_demo.py").make_demo(out, **VIDEOS, seed=3, size=40, frames=16)
    return out


@pytest.fixture
def tiny(demo, tmp_path) -> list:
    """Overrides of a run of seconds on the tiny demo data, into tmp_path/run."""
    return tiny_overrides(demo, tmp_path / "run")


def tiny_overrides(demo: Path, out: Path) -> list:
    overrides = {
        "NUM_GPUS": 0,
        "OUTPUT_DIR": str(out),
        "DATA.PATH_TO_DATA_DIR": str(demo),
        "DATA.PATH_PREFIX": str(demo / "videos"),
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 3,
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "DATA.TRAIN_JITTER_SCALES": [32, 36],
        "DATA.RANDOM_FLIP": False,
        "MODEL.NUM_CLASSES": 8,
        "UNIFORMER.EMBED_DIM": [8, 8, 16, 16],
        "UNIFORMER.DEPTH": [1, 1, 1, 1],
        "UNIFORMER.HEAD_DIM": 8,
        "UNIFORMER.MLP_RATIO": 2,
        "TRAIN.BATCH_SIZE": 8,
        "TRAIN.EVAL_PERIOD": 1,
        "TRAIN.CHECKPOINT_PERIOD": 1,
        "LOG_PERIOD": 1,
        "TEST.BATCH_SIZE": 8,
        "TEST.NUM_ENSEMBLE_VIEWS": 2,
        "SOLVER.MAX_EPOCH": 2,
        "SOLVER.BASE_LR": 1e-3,
        "SOLVER.OPTIMIZING_METHOD": "adamw",
        "DATA_LOADER.NUM_WORKERS": 0,
        "TENSORBOARD.ENABLE": False,
    }
    return [item for pair in overrides.items() for item in pair]


@pytest.fixture(scope="session")
def trained(demo, tmp_path_factory) -> Path:
    """The folder of a run on the tiny demo data, whose checkpoint holds a model with random weights."""
    import torch

    from slowfast_uniformer.config.load import load_config, to_dict
    from slowfast_uniformer.models.registry import build_model
    from slowfast_uniformer.runs import checkpoints

    out = tmp_path_factory.mktemp("trained")
    cfg = load_config(str(ROOT / "tests" / "empty.yaml"), tiny_overrides(demo, out))
    torch.manual_seed(5)
    state = {
        "model_state": build_model(cfg).state_dict(),
        "optimizer_state": {},
        "epoch": 2,
        "step": 4,
        "class_names": (demo / "classes.txt").read_text().split(),
        "cfg": to_dict(cfg),
    }
    checkpoints.write_checkpoint(checkpoints.checkpoint_path(str(out), 2), state)
    return out


@pytest.fixture
def command(capfd):
    """Call `uniformer COMMAND` in this process; returns exit status, standard output and standard error."""
    from slowfast_uniformer.cli import main

    def call(name: str, *arguments: object) -> tuple[int, str, str]:
        return exit_status(lambda: main.run([name, *map(str, arguments)])), *capfd.readouterr()

    return call


@pytest.fixture
def run_net(monkeypatch, capfd):
    """Call tools/run_net.py with KEY VALUE pairs; returns exit status, standard output and standard error."""
    script = load_script("tools/run_net.py")

    def call(overrides: list, *arguments: str) -> tuple[int, str, str]:
        config = ROOT / "tests" / "empty.yaml"
        monkeypatch.setattr(sys, "argv", ["run_net.py", "--cfg", str(config), *arguments, *map(str, overrides)])
        return exit_status(script.main), *capfd.readouterr()

    return call


@pytest.fixture(scope="module")  # while it is there, asyncio has a running loop
def browser():
    """Headless Chromium: $SLOWFAST_UNIFORMER_BROWSER, which then has to be there, or one that is found."""
    given = os.environ.get("SLOWFAST_UNIFORMER_BROWSER")
    path = given or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no Chromium: install chromium, or set SLOWFAST_UNIFORMER_BROWSER to its program")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """An empty page that reaches files and this machine only. A test fails where the page asks for more, or
    has errors on its console."""
    context = browser.new_context()
    page, troubles = context.new_page(), []

    def let_through(route):
        where = urlsplit(route.request.url)
        if where.scheme in ("file", "data", "blob") or where.hostname in ("127.0.0.1", "localhost"):
            route.continue_()
        else:
            troubles.append(f"asked for {route.request.url}")
            route.abort()

    context.route("**/*", let_through)
    page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    yield page
    context.close()
    assert troubles == []
