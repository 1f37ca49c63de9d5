"""Finding and reading weight files, and refusing those that would execute code."""

import argparse
import importlib
import pickle
import re

import pytest
import torch
from conftest import ROOT
from iopath.common.file_io import PathHandler, g_pathmgr
from safetensors.torch import save_file
from tiny_models import V2

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights.files import read_tensors
from slowfast_uniformer.weights.load import read_weights
from slowfast_uniformer.weights.resolve import find_weights


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", ["model_state", "model", "state_dict", "model_ema", None])
def test_tensors_of_torch_files(tmp_path, key, zipped):
    tensors = {"a.weight": torch.arange(3.0), "b": torch.tensor(2)}
    content = {key: tensors, "epoch": 3, "args": argparse.Namespace(lr=0.1)} if key else tensors
    torch.save(content, tmp_path / "x.pyth", _use_new_zipfile_serialization=zipped)
    found, _ = read_tensors(str(tmp_path / "x.pyth"))
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_tensors_of_safetensors_files(tmp_path):
    tensors = {"a.weight": torch.arange(3.0), "b": torch.ones(2, 2).half()}
    save_file(tensors, tmp_path / "x.safetensors")
    found, about = read_tensors(str(tmp_path / "x.safetensors"))
    assert about == {}
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


class NeedsCode:
    """What a checkpoint must not hold."""


def test_files_that_need_code_are_refused_with_a_way_out(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": {"a": torch.ones(1)}, "best": NeedsCode()}, path)
    with pytest.raises(UserError, match=r"x.pth: holds a \S*NeedsCode.*weights_only=False") as error:
        read_tensors(str(path))
    remedy = re.search(r"c = torch.load.*", str(error.value))[0].replace("weights.pth", str(tmp_path / "w.pth"))
    exec(remedy, {"torch": torch})
    assert read_tensors(str(tmp_path / "w.pth"))[0]["a"] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.pth", b"not a checkpoint at all", "not a checkpoint, or damaged"),
        ("empty.pth", b"", "not a checkpoint, or damaged"),
        ("other.pth", pickle.dumps({"a": 1}, protocol=2), "not a checkpoint, or damaged"),
        ("text.safetensors", b"not a checkpoint at all", "not a readable safetensors file"),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path, name, content, message):
    """PyTorch's advice to run the file's code (weights_only=False) is not passed on."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {message}") as error:
        read_tensors(str(tmp_path / name))
    assert "weights_only" not in str(error.value) and len(str(error.value)) < len(str(tmp_path)) + 200


def test_half_a_file_is_refused(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "whole.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(UserError, match="half.pth: not a checkpoint, or damaged"):
        read_tensors(str(tmp_path / "half.pth"))


@pytest.mark.parametrize(
    ("content", "held"),
    [({"epoch": 3, "model": {"lr": 1}}, "lr"), ([torch.ones(1)], "a list"), ({"epoch": 3}, "epoch")],
)
def test_files_without_named_tensors_are_refused(tmp_path, content, held):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(
        UserError, match=f"x.pth: not a file of weights: it holds {held}, and no tensors by name or under ema_state"
    ):
        read_tensors(str(tmp_path / "x.pth"))


def test_a_checkpoint_of_a_run_gives_its_ema_weights_and_metadata(tmp_path):
    beside = {"class_names": ["a", "b"], "step": 7, "cfg": {"MODEL": {}}}
    states = {"model_state": {"w": torch.zeros(1)}, "ema_state": {"w": torch.ones(1)}}
    torch.save(states | beside | {"epoch": 3}, tmp_path / "ema.pyth")
    torch.save(states | beside | {"ema_state": None}, tmp_path / "plain.pyth")
    found, about = read_tensors(str(tmp_path / "ema.pyth"))
    assert found["w"] == 1 and about == beside
    assert read_tensors(str(tmp_path / "plain.pyth"))[0]["w"] == 0


def test_names_are_looked_up_in_the_folder_of_weights(tmp_path, monkeypatch):
    save_file({"w": torch.ones(1)}, tmp_path / "known.safetensors")
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(tmp_path))
    assert find_weights("known") == find_weights("known.safetensors") == str(tmp_path / "known.safetensors")
    (tmp_path / "k400_k710_b16.pyth").touch()
    assert find_weights("k400/k400+k710_b16.pyth") == str(tmp_path / "k400_k710_b16.pyth")  # as a released YAML says
    assert read_tensors("known")[0]["w"] == 1
    with pytest.raises(UserError, match=f"gone: no such file .*SLOWFAST_UNIFORMER_WEIGHTS, {tmp_path}"):
        find_weights("gone")
    monkeypatch.delenv("SLOWFAST_UNIFORMER_WEIGHTS")
    with pytest.raises(UserError, match="known: no such file or run's folder, and no published weights"):
        find_weights("known")
    with pytest.raises(UserError, match=f"{tmp_path}: this folder has no checkpoints"):
        find_weights(str(tmp_path))


def test_addresses_go_through_the_path_manager(tmp_path):
    class Shelf(PathHandler):
        def _get_supported_prefixes(self) -> list[str]:
            return ["shelf://"]

        def _get_local_path(self, path: str, **_) -> str:
            return str(tmp_path / path.removeprefix("shelf://"))

    g_pathmgr.register_handler(Shelf(), allow_override=True)
    save_file({"w": torch.ones(1)}, tmp_path / "known.safetensors")
    assert read_tensors("shelf://known.safetensors")[0]["w"] == 1
    with pytest.raises(UserError, match="cannot download nowhere://x"):
        read_tensors("nowhere://x")


def test_a_checkpoint_cannot_make_the_reader_import_fetch_or_open_anything(tmp_path, monkeypatch):
    """A config in a checkpoint is only passed on; a text in its place, which could be a path or address, is ignored."""

    def forbidden(*arguments, **options):
        raise AssertionError(arguments)

    monkeypatch.setattr("slowfast_uniformer.paths.fetch", forbidden)
    monkeypatch.setattr(importlib, "import_module", forbidden)
    cfg = {"MODEL": {"IMPORT": "os.path", "INIT_FROM": "http://localhost/x.pth"}, "_BASE_": "http://localhost/x.yaml"}
    torch.save({"model_state": {"w": torch.ones(1)}, "cfg": cfg}, tmp_path / "x.pyth")
    assert read_weights(str(tmp_path / "x.pyth")).metadata == {"cfg": cfg}
    odd = {"cfg": "http://localhost/x.yaml", "class_names": "/etc/passwd", "arithmetic": "gelu", "step": None}
    torch.save({"model_state": {"w": torch.ones(1)}, **odd}, tmp_path / "y.pyth")
    weights = read_weights(str(tmp_path / "y.pyth"))
    assert weights.metadata == {} and weights.vit_variant == {} and weights.class_names is None


def test_the_vit_variant_of_a_run_is_saved_and_read(tiny, tmp_path):
    options = [item for pair in V2.items() for item in pair]
    cfg = load_config(str(ROOT / "tests/empty.yaml"), [*tiny, *options, "UNIFORMERV2.ACTIVATION", "gelu"])
    run = start_run(cfg, None)
    run.save()
    run.saver.finish(raise_on_failure=True)
    weights = read_weights(checkpoints.latest(str(tmp_path / "run")))
    assert weights.vit_variant == run.net.vit_variant and weights.vit_variant["ACTIVATION"] == "gelu"
