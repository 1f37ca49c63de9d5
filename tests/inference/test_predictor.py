"""load_model, consent to what a stored config asks for, windows and timelines."""

import shutil
import sys

import pytest
import torch

from slowfast_uniformer import load_model, paths
from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.config.recipes import labels_folder
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.predictor import config_of, window_starts
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights import registry

ADDRESS = "http://127.0.0.1:9"  # nobody listens there


def test_workers_read_the_same_clips(model):
    videos = annotations.load(model.cfg, "test")
    alone = [model.predict(video.path)["probability"] for video in videos]
    read = model.clips(videos, workers=2)
    together = [float(model.probabilities(model.logits(clips)).max()) for clips in read]
    assert together == pytest.approx(alone, abs=1e-6) and len(alone) == 9


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_clips_that_the_device_makes_are_the_same(model, trained, workers):
    videos = annotations.load(model.cfg, "test")
    made = load_model(trained, overrides=["AUG.DEVICE", "device"]).clips(videos, workers)
    for found, expected in zip(made, model.clips(videos), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_weights_without_a_config_need_one(trained, tmp_path):
    state = torch.load(checkpoints.latest(str(trained)), weights_only=True)
    torch.save(state["model_state"], tmp_path / "weights.pth")
    with pytest.raises(UserError, match="carries no config; name the one of its model with --cfg"):
        load_model(tmp_path / "weights.pth")
    config = tmp_path / "config.yaml"
    config.write_text(load_model(trained).cfg.dump())
    model = load_model(tmp_path / "weights.pth", str(config), ["TEST.NUM_ENSEMBLE_VIEWS", 1])
    assert model.names == state["class_names"] and model.cfg.TEST.NUM_ENSEMBLE_VIEWS == 1
    seven = ["MODEL.NUM_CLASSES", 7, "DATA.PATH_TO_DATA_DIR", ""]
    with pytest.raises(UserError, match="weights.pth.*class"):
        load_model(tmp_path / "weights.pth", str(config), seven)


# -------------------------------------------------------------------------------------------- released checkpoints
@pytest.mark.parametrize("recipe", ["k400/uniformer_s", "k400/uniformer_s_1gpu", "sthv2/uniformer_s_f16_k400"])
def test_a_recipe_is_its_released_checkpoint_with_its_classes(tmp_path, monkeypatch, caplog, recipe):
    overrides = ["UNIFORMER.EMBED_DIM", [8, 8, 16, 16], "UNIFORMER.DEPTH", [1, 1, 1, 1], "UNIFORMER.HEAD_DIM", 8]
    checkpoint = registry.released_checkpoint(recipe)
    cfg = load_config(recipe, overrides, runs_here=False)
    weights = build_model(cfg).state_dict()
    (tmp_path / "weights").mkdir()
    torch.save(weights, tmp_path / "weights" / f"{checkpoint.name}.pth")
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(tmp_path / "weights"))
    # Lists of this machine, in another order of classes than the release's, do not name the classes
    place = tmp_path / "data" / "k400"
    place.mkdir(parents=True)
    shutil.copy(labels_folder() / "k400.txt", place / "classes.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("K400_DIR", raising=False)
    model = load_model(recipe, overrides=overrides)
    assert model.names == (labels_folder() / f"{checkpoint.classes}.txt").read_text().splitlines()
    assert model.names[0] == ("riding a bike" if "k400/" in recipe else "Approaching something with your camera")
    assert model.cfg.DATA.NUM_FRAMES == 16 and model.cfg.OUTPUT_DIR.endswith(recipe)
    assert torch.equal(model.model.state_dict()["head.weight"], weights["head.weight"])
    assert ("was not checked" in caplog.text) != checkpoint.classes_certain
    # By the checkpoint's name it is the same; names that the caller gives win
    own = [f"class {k}" for k in range(len(model.names))]
    (tmp_path / "own.txt").write_text("\n".join(own))
    assert load_model(checkpoint.name, overrides=overrides).names == model.names
    assert load_model(recipe, overrides=[*overrides, "DATA.CLASS_NAMES", "own.txt"]).names == own


def test_a_recipe_that_was_never_released_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="demo/uniformer.*no such file.*uniformer weights list"):
        load_model("demo/uniformer")


# ----------------------------------------------------------------------------------------------------- consent
@pytest.fixture
def stored(trained, tmp_path):
    """Write a checkpoint whose stored config has a value; returns its path."""

    def write(key: str, value: object, **content: object):
        state = torch.load(checkpoints.latest(str(trained)), weights_only=True)
        *section, name = key.split(".")
        (state["cfg"][section[0]] if section else state["cfg"])[name] = value
        state |= content
        torch.save(state, tmp_path / "received.pyth")
        return tmp_path / "received.pyth"

    return write


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module that can be imported."""
    name = "named_by_a_checkpoint"
    (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def fetched(monkeypatch, demo):
    """Addresses that were fetched; each is the demo's class names."""
    addresses = []

    def fetch(path: str) -> str:
        if "://" not in path:
            return path
        addresses.append(path)
        return str(demo / "classes.txt")

    monkeypatch.setattr(paths, "fetch", fetch)
    return addresses


def test_a_stored_config_imports_nothing_without_consent(stored, module):
    path = stored("MODEL.IMPORT", module)
    for call in (load_model, config_of):
        with pytest.raises(UserError, match=rf"import {module} \(MODEL.IMPORT\).*--allow-import.*allow_import=True"):
            call(path=path, allow_fetch=True)
    assert module not in sys.modules
    load_model(path, overrides=["MODEL.IMPORT", ""])
    assert module not in sys.modules
    load_model(path, allow_import=True)
    assert module in sys.modules


def test_overrides_and_config_files_are_consent_to_an_import(stored, module, tmp_path):
    path = stored("MODEL.IMPORT", module)
    load_model(path, overrides=["MODEL.IMPORT", module])
    assert sys.modules.pop(module)
    config = tmp_path / "config.yaml"
    config.write_text(config_of(path=path, allow_import=True).dump())
    load_model(path, str(config))
    assert module in sys.modules


@pytest.mark.parametrize(
    ("key", "value", "address"),
    [
        ("DATA.CLASS_NAMES", f"{ADDRESS}/names.txt", f"{ADDRESS}/names.txt"),
        ("DATA.CLASS_NAMES", "${NOT_SET_ANYWHERE:-http:}//127.0.0.1:9/names.txt", f"{ADDRESS}/names.txt"),
        ("DATA.PATH_TO_DATA_DIR", f"{ADDRESS}/lists", f"{ADDRESS}/lists"),
    ],
)
def test_a_stored_config_fetches_nothing_without_consent(stored, fetched, demo, key, value, address):
    path = stored(key, value, class_names=None)
    for call in (load_model, config_of):
        with pytest.raises(UserError, match=rf"fetch {address} \({key}\).*--allow-fetch.*allow_fetch=True"):
            call(path=path, allow_import=True)
    load_model(path, overrides=[key, str(demo / "classes.txt")])
    assert fetched == []
    assert load_model(path, allow_fetch=True).names == (demo / "classes.txt").read_text().split()
    assert fetched and all(each.startswith(address) for each in fetched)


def test_a_checkpoint_with_class_names_needs_no_addresses(stored, fetched):
    model = load_model(stored("DATA.PATH_TO_DATA_DIR", f"{ADDRESS}/lists"))
    assert fetched == [] and len(model.names) == 8


def test_an_override_is_consent_to_a_fetch(stored, fetched):
    path = stored("DATA.CLASS_NAMES", "", class_names=None)
    load_model(path, overrides=["DATA.CLASS_NAMES", f"{ADDRESS}/names.txt"])
    assert fetched == [f"{ADDRESS}/names.txt"]


def test_a_stored_config_is_not_the_name_of_a_file(stored, tmp_path):
    path = stored("MODEL.IMPORT", "", cfg=str(tmp_path / "config.yaml"))
    with pytest.raises(UserError, match="carries no config"):
        load_model(path)


@pytest.mark.parametrize(
    ("key", "value", "here"),
    [("MODEL.INIT_HEAD", "probe", "keep"), ("MODEL.INIT_FROM", "a/place/elsewhere.pyth", ""), ("TRACKER", "wandb", "")],
)
def test_keys_of_training_do_not_apply(stored, key, value, here):
    assert dict(flatten(load_model(stored(key, value)).cfg))[key] == here


@pytest.mark.parametrize("command_name", ["predict", "features", "explain", "export", "app"])
def test_commands_refuse_a_stored_import(command, stored, module, demo, tmp_path, command_name):
    video = next((demo / "videos" / "up").iterdir())
    arguments = {
        "predict": [video],
        "features": [video, "--output", tmp_path / "out.safetensors"],
        "explain": [video, "--output", tmp_path / "out"],
        "export": ["--format", "torch_export", "--output", tmp_path / "out.pt2"],
        "app": [],
    }[command_name]
    path = stored("MODEL.IMPORT", module)
    status, _, error = command(command_name, "--checkpoint", path, *arguments)
    assert status == 2 and f"import {module} (MODEL.IMPORT)" in error and "--allow-import" in error
    assert module not in sys.modules
    if command_name == "predict":
        assert command(command_name, "--checkpoint", path, "--allow-import", *arguments)[0] == 0
        assert module in sys.modules


def test_a_command_fetches_with_consent_only(command, stored, fetched, demo):
    video = next((demo / "videos" / "up").iterdir())
    path = stored("DATA.CLASS_NAMES", f"{ADDRESS}/names.txt", class_names=None)
    status, _, error = command("predict", "--checkpoint", path, video)
    assert status == 2 and "--allow-fetch" in error and f"{ADDRESS}/names.txt" in error and fetched == []
    assert command("predict", "--checkpoint", path, "--allow-fetch", video)[0] == 0 and fetched


# ---------------------------------------------------------------------------------------------------- timelines
def test_windows_cover_the_video():
    assert window_starts(100, 20, 10) == list(range(0, 81, 10))
    assert window_starts(95, 20, 10) == [*range(0, 71, 10), 75]
    assert window_starts(20, 20, 10) == [0]


def test_timeline_averages_the_windows_that_cover_a_moment(model, long_video):
    spans = model.timeline(long_video, window=2.0, step=1.0)
    assert [(span.start, span.end) for span in spans] == [(n, n + 1.0) for n in range(8)]
    even = [span.probabilities for span in model.timeline(long_video, window=2.0, step=2.0)[:4]]
    with Video(long_video) as source:
        odd = model._classify_windows(source, [25, 75, 125], 50.0)
    torch.testing.assert_close(spans[0].probabilities, even[0])
    torch.testing.assert_close(spans[7].probabilities, even[3])
    torch.testing.assert_close(spans[3].probabilities, (odd[1] + even[1]) / 2)
    for span in spans:
        assert float(span.probabilities.sum()) == pytest.approx(1)


def test_a_timeline_needs_positive_lengths(model, long_video):
    for lengths in ({"window": 0}, {"step": -1.0}):
        with pytest.raises(UserError, match="must be above 0 .seconds."):
            model.timeline(long_video, **lengths)
