"""The registry of published checkpoints agrees with the sources that were read, with the recipes and with the labels.

golden/published_weights.json holds what the publishers' pages say of each recipe's file, and the initial weights.
"""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from conftest import ROOT

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.config.recipes import list_recipes
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.weights.registry import (
    checkpoints,
    find_checkpoint,
    hash_in_name,
    released_checkpoint,
    similar_names,
)

FACTS = json.loads((ROOT / "tests/golden/published_weights.json").read_text())
OF_RECIPES = [facts for facts in FACTS if facts["recipe"]]
PUBLISHED = list(checkpoints().values())


def labels(name: str) -> int:
    return len((ROOT / f"datasets/labels/{name}.txt").read_text().splitlines())


def released_recipes() -> dict:
    configs = {name: load_config(name, runs_here=False) for name in list_recipes()}
    return {name: cfg for name, cfg in configs.items() if cfg.RECIPE}


def test_every_row_is_well_formed():
    files: set[str] = set()
    for checkpoint in PUBLISHED:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", checkpoint.name)
        assert not checkpoint.classes or labels(checkpoint.classes)
        assert checkpoint.sources or "without a file" in checkpoint.note
        assert checkpoint.top1 is None or 40 < checkpoint.top1 < (checkpoint.top5 or 100) <= 100
        own = {source.file for source in checkpoint.sources}
        assert not own & files, "a file's name means one checkpoint"
        files |= own
        for source in checkpoint.sources:
            start = {"hub": "hf://[^/]+/[^/]+/[^/]+", "gdrive": "https://drive.google.com/file/d/[^/]{20,}/view"}
            assert re.fullmatch(start.get(source.kind, r"https://[a-z0-9.-]+/\S+\.(pth|pyth|pt|h5)"), source.address)
            assert source.origin in ("release", "openai", "hugging_face", "mmaction2", "keras")
            assert re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{8}|", source.sha256)
            assert not source.classes or labels(source.classes)
            assert re.fullmatch(r"20\d\d-\d\d|", source.failing_since + source.gone_since)
            assert source.origin != "mmaction2" or source.sha256


@pytest.mark.parametrize("facts", OF_RECIPES, ids=lambda facts: facts["recipe"])
def test_the_row_of_a_recipe_says_what_its_publishers_say(facts):
    checkpoint = released_checkpoint(facts["recipe"])
    assert checkpoint.released and checkpoint.top1 == facts["top1"]
    assert not facts["file"] or checkpoint.name == Path(facts["file"]).stem
    check_sources(checkpoint, facts)
    again = [each for each in PUBLISHED if facts["recipe"] in each.recipes and not each.released]
    assert [each.sources[0].address for each in again] == [facts["mmaction2"]] * facts["mmaction2_trained_again"]


@pytest.mark.parametrize("facts", [facts for facts in FACTS if not facts["recipe"]], ids=lambda facts: facts["file"])
def test_initial_weights_are_what_their_publishers_say(facts):
    checkpoint = checkpoints()[Path(facts["file"]).stem]
    assert checkpoint.recipes == () and checkpoint.top1 == facts["top1"]
    check_sources(checkpoint, facts)


def check_sources(checkpoint, facts: dict) -> None:
    by_origin = {source.origin: source for source in checkpoint.sources}
    addresses = [source.address for source in checkpoint.sources]
    assert (facts["released"] in addresses) == bool(facts["released"])
    assert by_origin.get("keras", None) is None or by_origin["keras"].address == facts["keras"]
    assert ("keras" in by_origin) == bool(facts["keras"])
    ported = facts["mmaction2"] and not facts["mmaction2_trained_again"]
    assert (facts["mmaction2"] in addresses) == bool(ported)
    hub = [source for source in checkpoint.sources if source.kind == "hub"]
    assert bool(hub) == bool(facts["hub"])
    assert all(f"{source.address}/".startswith(f"hf://{facts['hub']}/") for source in hub)
    assert not hub or hub[0].certain == facts["hub_is_certain"]
    for source in checkpoint.sources:
        assert bool(source.gone_since) == (facts["released_is_gone"] and source.address == facts["released"])
        own_file = source.origin in ("release", "openai") and not source.gone_since
        assert (source.size or None) == (facts["size"] if own_file else None)
        if own_file and facts["sha256"]:
            assert source.sha256 == facts["sha256"]


def test_released_checkpoints_belong_to_all_recipes_and_fit_them():
    """What a recipe's classifier has as many rows as its MODEL.NUM_CLASSES says is tested for all of them in
    config/test_recipes.py."""
    recipes = released_recipes()
    assert len(recipes) > 100 and len(OF_RECIPES) == 88
    for name, cfg in recipes.items():
        checkpoint = released_checkpoint(name)
        assert checkpoint and checkpoint.recipes == (name.removesuffix("_1gpu"),)
        assert labels(checkpoint.classes) == cfg.MODEL.NUM_CLASSES
        views = f"{cfg.DATA.NUM_FRAMES}x{cfg.TEST.NUM_SPATIAL_CROPS}x{cfg.TEST.NUM_ENSEMBLE_VIEWS}"
        assert checkpoint.views == views or name.endswith("_1gpu")
        start = find_checkpoint(cfg.MODEL.INIT_FROM)
        assert start, f"{name}: what a recipe starts from is in the registry"
        assert start.sources or name == "mit/uniformerv2_l14_8x336", "the one that was never published"
    for checkpoint in PUBLISHED:
        assert set(checkpoint.recipes) <= recipes.keys()


@pytest.mark.parametrize("name", ["k400/uniformer_xxs_4x128", "ucf101/uniformer_s"])
def test_the_classifier_of_a_recipe_has_a_row_for_each_class_of_its_checkpoint(name):
    with torch.device("meta"):
        model = build_model(load_config(name, runs_here=False))
    (classifier,) = {model.get_submodule(name).out_features for name in model.classifier}
    assert classifier == labels(released_checkpoint(name).classes)


def test_orders_of_classes():
    """UniFormer's Kinetics-400 files are in its own order, mmaction2's ports of them in the alphabetical one."""
    port = {source.origin: source.classes for source in checkpoints()["uniformer_small_k400_16x4"].sources}
    assert port == {"release": "", "mmaction2": "k400"}
    for checkpoint in PUBLISHED:
        for source in checkpoint.sources:
            kinetics = checkpoint.classes.startswith("k") and source.origin == "mmaction2" and checkpoint.released
            assert source.classes == (checkpoint.recipes[0].split("/")[0] if kinetics else "")


def test_names():
    small = checkpoints()["uniformer_small_k400_16x4"]
    for name in (
        "uniformer_small_k400_16x4",
        "uniformer_small_k400_16x4.pth",
        "k400/uniformer_s_1gpu",
        small.sources[1].file,
    ):
        assert find_checkpoint(name) is small
    assert find_checkpoint("k400/k400+k710_uniformerv2_b16_8x224.pyth").name == "k400_k710_uniformerv2_b16_8x224"
    assert find_checkpoint("k700/uniformerv2_l14_64x336_k710").name == "k700_k710_uniformerv2_l14_64x336"
    for name in ("runs/uniformer_small_k400_16x4.pth", "uniformer_small_k400_16x4.onnx", "k400", "demo/uniformer"):
        assert find_checkpoint(name) is None
    assert similar_names("uniformer_smal_k400_16x4.pth")[0] == small.name


@pytest.mark.parametrize(
    "file, start",
    [
        ("uniformer-small_16x4x1_kinetics400-rgb_20221219-c630a037.pth", "c630a037"),
        ("uniformerv2-base-p16_kinetics700-rgb_20230313-69070837.pth", "69070837"),
        ("resnet50-0676ba61.pth", "0676ba61"),
        ("uniformer-20221219.pth", ""),
        ("clip-vit-base-patch16.safetensors", ""),
        ("uniformer_small_in1k.pth", ""),
    ],
)
def test_hashes_in_names(file, start):
    assert hash_in_name(file) == start


def test_no_other_file_has_an_address_of_weights():
    hosts = {urlsplit(source.address).netloc for each in PUBLISHED for source in each.sources if source.kind != "hub"}
    repositories = {source.address[5:] for each in PUBLISHED for source in each.sources if source.kind == "hub"}
    parts = (
        hosts - {"github.com"}
        | {repository.rsplit("/", 1)[0] for repository in repositories}
        | {"hf.co", "huggingface.co"}
    )
    assert len(parts) > 10
    texts = [path for folder in ("slowfast_uniformer", "configs", "tools") for path in (ROOT / folder).rglob("*")]
    texts = [
        path for path in texts if path.suffix in (".py", ".yaml", ".json", ".html") and path.name != "registry.json"
    ]
    assert len(texts) > 200
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert not [part for part in parts if part in text], path
