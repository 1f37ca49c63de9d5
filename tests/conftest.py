"""What tests share: the checkout's scripts as modules, a tiny demo data set, and a config that trains on
it."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
VIDEOS = {"train": 16, "val": 9}  # 9: not divisible among two processes


def load_script(path: str):
    """A script of the checkout as a module, without running it."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """A demo data set of a few small videos."""
    out = tmp_path_factory.mktemp("data") / "demo"
    load_script("datasets/make_demo.py").make_demo(out, **VIDEOS, seed=3, size=40, frames=16)
    return out


@pytest.fixture
def tiny(demo, tmp_path) -> list:
    """Overrides of a run of seconds on the tiny demo data, into tmp_path/run."""
    overrides = {
        "NUM_GPUS": 0, "OUTPUT_DIR": str(tmp_path / "run"), "DATA.PATH_TO_DATA_DIR": str(demo),
        "DATA.PATH_PREFIX": str(demo / "videos"), "DATA.NUM_FRAMES": 4, "DATA.SAMPLING_RATE": 3,
        "DATA.TRAIN_CROP_SIZE": 32, "DATA.TEST_CROP_SIZE": 32, "DATA.TRAIN_JITTER_SCALES": [32, 36],
        "DATA.RANDOM_FLIP": False, "MODEL.NUM_CLASSES": 8, "UNIFORMER.EMBED_DIM": [8, 8, 16, 16],
        "UNIFORMER.DEPTH": [1, 1, 1, 1], "UNIFORMER.HEAD_DIM": 8, "UNIFORMER.MLP_RATIO": 2,
        "TRAIN.BATCH_SIZE": 8, "TRAIN.EVAL_PERIOD": 1, "TRAIN.CHECKPOINT_PERIOD": 1, "LOG_PERIOD": 1,
        "TEST.BATCH_SIZE": 8, "TEST.NUM_ENSEMBLE_VIEWS": 2,
        "SOLVER.MAX_EPOCH": 2, "SOLVER.BASE_LR": 1e-3, "SOLVER.OPTIMIZING_METHOD": "adamw",
        "DATA_LOADER.NUM_WORKERS": 0, "TENSORBOARD.ENABLE": False,
    }  # fmt: skip
    return [item for pair in overrides.items() for item in pair]


@pytest.fixture
def run_net(monkeypatch, capfd):
    """Call tools/run_net.py with KEY VALUE pairs; returns exit status, standard output and standard error."""
    script = load_script("tools/run_net.py")

    def call(overrides: list, *arguments: str) -> tuple[int, str, str]:
        config = ROOT / "tests" / "empty.yaml"
        monkeypatch.setattr(
            sys, "argv", ["run_net.py", "--cfg", str(config), *arguments, *map(str, overrides)]
        )
        status = 0
        try:
            script.main()
        except SystemExit as stop:
            status = stop.code
        return status, *capfd.readouterr()

    return call
