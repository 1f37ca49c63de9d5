"""What `uniformer publish` writes, what is read from it, and what is refused."""

import getpass
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, tiny_overrides
from small_models import small_cfg

from slowfast_uniformer import load_model
from slowfast_uniformer.config.load import load_config, to_dict
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.publish import publish, published_config
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.files import append_json_lines
from slowfast_uniformer.runs.published import FILES

CLIPS = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("given") / "model"
    publish(str(trained), str(out), "MIT", data="Moving *shapes*.")
    return out


@pytest.fixture
def copy(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "copy"))


@pytest.fixture
def write_run(demo, tmp_path):
    """Write a run's folder with a checkpoint of random weights; returns folder and checkpoint."""

    def write(overrides=(), out="run", epoch=1, names=None, **content) -> tuple[Path, str]:
        folder = tmp_path / out
        cfg = load_config(str(ROOT / "tests" / "empty.yaml"), [*tiny_overrides(demo, folder), *overrides])
        torch.manual_seed(epoch)
        model = build_model(cfg)
        state = {
            "model_state": model.state_dict(),
            "optimizer_state": {},
            "epoch": epoch,
            "step": 10 * epoch,
            "class_names": names or [f"class {k}" for k in range(cfg.MODEL.NUM_CLASSES)],
            "arithmetic": getattr(model, "vit_variant", None),
            "cfg": to_dict(cfg),
            **content,
        }
        path = checkpoints.checkpoint_path(str(folder), epoch)
        checkpoints.write_checkpoint(path, state)
        return folder, path

    return write


def test_what_is_published_gives_equal_logits_elsewhere(trained, copy, tmp_path, monkeypatch, demo):
    """In a folder of its own, without pickles, with the run's data out of reach by name."""
    original = load_model(trained)
    for name in ("model.pth", "pytorch_model.bin", "checkpoints/best.pyth"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes(b"not to be opened")
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("a pickle was read"))
    monkeypatch.chdir(copy.parent)
    for place in (copy, "copy", copy / "model.safetensors"):
        model = load_model(place)
        assert torch.equal(model.logits(CLIPS), original.logits(CLIPS)) and model.names == original.names
    video = demo / "videos" / "left" / "left_0001.mp4"
    assert model.predict(video) == original.predict(video)
    assert Path(model.path) == copy / "model.safetensors"


def test_the_files(published, trained, demo):
    assert sorted(os.listdir(published)) == sorted(FILES)
    assert (published / "classes.txt").read_text() == (demo / "classes.txt").read_text()
    facts = json.loads((published / "metrics.json").read_text())
    assert facts["checkpoint"] == {"epoch": 2, "step": 4, "ema": False} and facts["views"] == "2 x 3"
    card = (published / "README.md").read_text()
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "license": "mit",
        "library_name": "slowfast_uniformer",
        "pipeline_tag": "video-classification",
        "tags": ["video-classification", "slowfast_uniformer", "uniformer"],
        "metrics": ["accuracy"],
    }
    assert "Moving *shapes*." in text and ": 8 classes, of which a video has one" in text
    assert "None were recorded." in text
    assert "4 frames of 32 x 32 pixels" in text and "2 x 3 views" in text


def test_nothing_of_this_machine_is_given_away(published, trained, demo):
    found = b"".join((published / name).read_bytes() for name in FILES).decode("utf-8", "replace")
    for secret in (str(trained), str(demo), str(Path.home()), os.getcwd(), f"/{getpass.getuser()}/"):
        assert secret not in found
    config = yaml.safe_load((published / "config.yaml").read_text())
    assert not {"OUTPUT_DIR", "NUM_GPUS", "TRACKER", "DATA_LOADER"} & config.keys()
    assert not {"PATH_TO_DATA_DIR", "PATH_PREFIX", "CLASS_NAMES"} & config["DATA"].keys()
    assert config["TEST"]["NUM_ENSEMBLE_VIEWS"] == 2 and config["SOLVER"]["BASE_LR"] == 1e-3


@pytest.mark.parametrize("value", ["/home/somebody/weights", "~/weights", "$HOME/w", "C:\\weights", ["a", "/b"]])
def test_a_path_among_a_models_own_keys_is_seen(value):
    cfg = load_config(None, ["NUM_GPUS", 0, "MODEL.ARGS", {"FROM": {"DEEP": value}}])
    with pytest.raises(UserError, match=r"MODEL\.ARGS\.FROM\.DEEP: .* looks like a path"):
        published_config(cfg)


def test_a_path_among_a_models_own_keys_is_refused(write_run, tmp_path):
    run, _ = write_run(["MODEL.ARGS", {"FROM": "/home/somebody", "WIDTH": 3}])
    with pytest.raises(UserError, match=r"MODEL\.ARGS\.FROM: .* looks like a path.*--set MODEL\.ARGS\.FROM VALUE"):
        publish(str(run), str(tmp_path / "out"), "mit")
    assert os.listdir(tmp_path) == ["run"]
    publish(str(run), str(tmp_path / "out"), "mit", overrides=["MODEL.ARGS.FROM", "none"])
    assert load_model(tmp_path / "out").cfg.MODEL.ARGS == {"FROM": "none", "WIDTH": 3}


@pytest.mark.slow
def test_commands_and_runs_read_a_published_folder(published, command, run_net, tiny, tmp_path, demo, monkeypatch):
    status, out, _ = command("info", "--cfg", published / "config.yaml")
    assert status == 0 and out.startswith("Uniformer, one clip of 4 frames of 32 x 32")
    status, out, _ = command("predict", "--checkpoint", published, "--json", demo / "videos/left/left_0001.mp4")
    assert status == 0 and json.loads(out)[0]["class"] in (demo / "classes.txt").read_text().split()
    alone = ["TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", published]
    status, out, error = run_net([*tiny, *alone])
    assert status == 0 and f"testing {published}/model.safetensors" in error, error
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(published.parent))
    for place in (published, published.name):  # a name in the user's folder
        run = ["MODEL.INIT_FROM", place, "SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False, "OUTPUT_DIR", tmp_path / "start"]
        status, out, error = run_net([*tiny, *run, "TRAIN.AUTO_RESUME", False])
        assert status == 0 and "tensors loaded (100.0% of the parameters)" in error, error
    status, out, error = run_net([*tiny, "TRAIN.CHECKPOINT_FILE_PATH", published, "OUTPUT_DIR", tmp_path / "again"])
    assert status == 2 and "To start from its weights, set MODEL.INIT_FROM to it" in error


# -------------------------------------------------------------------------------------------------------- models
@pytest.mark.parametrize(
    "label",
    ["Uniformer split std", "Uniformer_light", "Uniformerv2 other ViT", pytest.param("PTVX3D", marks=pytest.mark.slow)],
)
def test_every_kind_of_model(write_run, tmp_path, label):
    small = small_cfg(label)
    sections = {"UNIFORMER": small.UNIFORMER, "UNIFORMERV2": small.UNIFORMERV2}
    overrides = [word for name, section in sections.items() for k, v in section.items() for word in (f"{name}.{k}", v)]
    overrides += ["MODEL.MODEL_NAME", small.MODEL.MODEL_NAME, "MODEL.ARGS", dict(small.MODEL.ARGS)]
    if label == "Uniformerv2 other ViT":  # what these keys are follows from the weights, and only they know it
        for key in ("ACTIVATION", "LAYER_SCALE", "LN_PRE", "NORM_EPS"):
            overrides += [f"UNIFORMERV2.{key}", "auto"]
    run, path = write_run(overrides)
    if label == "Uniformerv2 other ViT":
        state = torch.load(path, weights_only=True)
        variant = {"activation": "gelu", "layer_scale": True, "ln_pre": False, "norm_eps": 1e-6}
        cfg = load_config(state["cfg"], runs_here=False)
        model = build_model(cfg, variant)
        state |= {"arithmetic": model.vit_variant, "model_state": model.state_dict()}
        torch.save(state, path)
    publish(str(run), str(tmp_path / "out"), "apache-2.0")
    again, before = load_model(tmp_path / "out"), load_model(run)
    assert torch.equal(again.logits(CLIPS), before.logits(CLIPS))


def test_a_multi_label_head_and_names_with_unusual_characters(write_run, tmp_path):
    names = ["0 left", "1 right", '"quoted"', "a, b; c", "[x]", "naïve 走る 🏃", "{y}", "#no: - yaml\u2028"]
    run, _ = write_run(["DATA.MULTI_LABEL", True], names=[*names[:-1], f"{names[-1]}\n2"])
    publish(str(run), str(tmp_path / "out"), "cc-by-4.0", data="{braces} and\n---\nlines")
    model = load_model(tmp_path / "out")
    assert model.names == [*names[:-1], f"{names[-1]} 2"]  # a line break cannot be in a line
    assert model.cfg.DATA.MULTI_LABEL and "sigmoid" in (tmp_path / "out" / "README.md").read_text()
    probabilities = model.probabilities(model.logits(CLIPS))
    assert float(probabilities.sum()) != pytest.approx(1, abs=0.01)


def test_a_head_taken_through_a_label_map_stays_as_it_was_trained(write_run, tmp_path):
    run, _ = write_run(["MODEL.INIT_FROM", "somewhere.pyth", "MODEL.INIT_HEAD", "map:[7,6,5,4,3,2,1,0]"])
    publish(str(run), str(tmp_path / "out"), "mit")
    again = load_model(tmp_path / "out")
    assert again.cfg.MODEL.INIT_HEAD == "keep" and again.cfg.MODEL.INIT_FROM == ""
    assert torch.equal(again.logits(CLIPS), load_model(run).logits(CLIPS))


def test_weights_without_names_are_named_first(write_run, tmp_path, demo):
    _, path = write_run(["DATA.PATH_TO_DATA_DIR", ""], class_names=None)
    with pytest.raises(UserError, match="class names are not known.*--set DATA.CLASS_NAMES FILE"):
        publish(path, str(tmp_path / "out"), "mit")
    publish(path, str(tmp_path / "out"), "mit", overrides=["DATA.CLASS_NAMES", str(demo / "classes.txt")])
    assert load_model(tmp_path / "out").names == (demo / "classes.txt").read_text().split()


# --------------------------------------------------------------------------------- which checkpoint, which figures
@pytest.mark.parametrize(("best", "epoch"), [(False, 2), (True, 1)])
def test_the_checkpoint_that_a_test_takes_and_its_figures(write_run, tmp_path, best, epoch):
    run, first = write_run(["TEST.TEST_BEST", best], epoch=1)
    shutil.copy(first, checkpoints.best_path(str(run)))
    averaged = {"ema_state": torch.load(first, weights_only=True)["model_state"]}
    _, second = write_run(["TEST.TEST_BEST", best], epoch=2, **averaged)
    row = {"num_videos": 9, "coverage": 100.0}
    append_json_lines(
        str(run / "metrics.jsonl"),
        {"step": 10, "split": "val_epoch", "epoch": 1, "top1_acc": 11.0, **row},
        {"step": 20, "split": "val_epoch", "epoch": 2, "top1_acc": 22.0, **row},
        {
            "step": 20,
            "split": "test_final",
            "top1_acc": 77.0,
            **row,
            "views": "9 x 1",
            "checkpoint": "other/checkpoints/x",
        },
        {"step": 20, "split": "test_final", "top1_acc": 44.0, **row, "views": "4 x 3", "checkpoint": second},
    )
    run = run.rename(tmp_path / "moved")
    lines = publish(str(run), str(tmp_path / "out"), "mit")
    assert Path(lines[0].partition(":")[0]).name == ("best.pyth" if best else "epoch_00002.pyth")
    assert ("EMA weights after epoch 2 (step 20)" if epoch == 2 else ": weights after epoch 1 (step 10)") in lines[0]
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["figures"]
    validation = {"split": "validation", "views": "1 x 1", "top1_acc": 11.0 * epoch, **row}
    assert figures == [validation, {"split": "test", "views": "4 x 3", "top1_acc": 44.0, **row}][:epoch]
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| validation | 9 | 1 x 1 | {11 * epoch}.00 % |" in card
    assert ("| test | 9 | 4 x 3 | 44.00 % |" in card) == (epoch == 2) and "77" not in card


def test_figures_of_tests_elsewhere(write_run, tmp_path):
    run, _ = write_run()
    (tmp_path / "test").mkdir()
    rows = [{"step": 10, "split": "test_final", "top1_acc": 5.5, "num_videos": 4, "views": "10 x 3"}]
    append_json_lines(str(tmp_path / "test" / "metrics.jsonl"), *rows)
    publish(str(run), str(tmp_path / "out"), "mit", figures=[str(tmp_path / "test")])
    assert "| test | 4 | 10 x 3 | 5.50 % |" in (tmp_path / "out" / "README.md").read_text()
    write_run(epoch=2)
    with pytest.raises(UserError, match=r"no test of .*epoch_00002.pyth \(step 20\) is recorded there"):
        publish(str(run), str(tmp_path / "new"), "mit", figures=[str(tmp_path / "test")])
    with pytest.raises(UserError, match="holds no metrics.jsonl"):
        publish(str(run), str(tmp_path / "new"), "mit", figures=[str(tmp_path)])
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------------------------- refusals
def test_no_licence_is_invented(command, trained, tmp_path):
    for words in ([], ["--license", ""], ["--license", "other"], ["--license", "do what you like"]):
        status, out, error = command("publish", trained, tmp_path / "out", *words)
        assert (status, out) == (2, "") and "--license ID, such as apache-2.0, mit" in error and "spdx.org" in error
    assert os.listdir(tmp_path) == []
    status, out, error = command("publish", trained, tmp_path / "out", "--license", "MulanPSL-2.0")
    assert (status, error) == (0, "")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: other\nlicense_name: mulanpsl-2.0\n" in card


def test_only_a_published_folder_is_replaced(trained, published, tmp_path, write_run):
    target = tmp_path / "out"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files \(notes.txt\).*--force"):
        publish(str(trained), str(target), "mit")
    assert (target / "notes.txt").read_text() == "mine"
    publish(str(trained), str(target), "mit", force=True)
    assert sorted(os.listdir(target)) == sorted(FILES)
    publish(str(trained), str(target), "gpl-3.0")
    assert "license: gpl-3.0" in (target / "README.md").read_text()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="notes.txt"):
        publish(str(trained), str(target), "mit")
    run, _ = write_run()
    for place, cause in (
        (run, "holds the run or file to publish|folder of a run"),
        (tmp_path, "holds the run or file to publish"),
    ):
        with pytest.raises(UserError, match=cause):
            publish(str(run), str(place), "mit", force=True)
    with pytest.raises(UserError, match="folder of a run"):
        publish(str(published.parent.parent), str(run), "mit", force=True)
    with pytest.raises(UserError, match="is a file"):
        publish(str(run), str(target / "notes.txt"), "mit")


def test_a_fault_leaves_what_was_there(trained, copy, tmp_path, monkeypatch):
    before = {name: (copy / name).read_bytes() for name in FILES}
    monkeypatch.setattr("slowfast_uniformer.inference.publish.model_card", lambda facts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish(str(trained), str(copy), "mit")
    assert {name: (copy / name).read_bytes() for name in FILES} == before and os.listdir(tmp_path) == ["copy"]
    monkeypatch.undo()
    rename, calls = os.rename, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(UserError, match="cannot write .*copy: No space left"):
        publish(str(trained), str(copy), "mit")
    assert {name: (copy / name).read_bytes() for name in FILES} == before and os.listdir(tmp_path) == ["copy"]


# -------------------------------------------------------------------------------------------------------- tampering
def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", cut, "model.safetensors: not a readable safetensors file"),
        ("model.safetensors", lambda path: path.write_bytes(b"no"), "model.safetensors: not a readable safetensors"),
        ("model.safetensors", Path.unlink, r"no weights|model.safetensors"),
        ("config.yaml", Path.unlink, "lacks its config.yaml; download the folder again"),
        ("classes.txt", Path.unlink, "lacks its classes.txt; download the folder again"),
        ("classes.txt", lambda path: path.write_text("a\n\nb\n"), "classes.txt, line 2: the name of a class is empty"),
        ("classes.txt", lambda path: path.write_text("a\nb\n"), "classes.txt: 2 class names, but MODEL.NUM_CLASSES in"),
        ("config.yaml", lambda path: path.write_text("MODEL: 3\n"), "NUM_CLASSES in config.yaml beside it is None"),
        ("config.yaml", lambda path: path.write_text("_BASE_: /etc/x.yaml\n"), "line 1: this config must not build on"),
        ("config.yaml", lambda path: path.write_text('"_BASE\\x5f": "http://127.0.0.1:9/x"\n'), "must not build on"),
    ],
)
def test_a_damaged_folder_is_one_message(copy, name, damage, message):
    damage(copy / name)
    with pytest.raises(UserError, match=message) as caught:
        load_model(copy)
    assert "\n" not in str(caught.value)


def test_a_published_config_asks_before_it_imports(copy):
    path = copy / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["MODEL"]["IMPORT"] = "somebodys_module"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"asks to import somebodys_module.*--allow-import"):
        load_model(copy)
