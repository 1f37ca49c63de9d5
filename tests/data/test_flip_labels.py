"""Label-aware horizontal flips (DATA.FLIP_LABELS)."""

import json

import pytest
import torch
from conftest import ROOT

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.flip_labels import flipped_labels
from slowfast_uniformer.errors import UserError


def names_of(name):
    return (ROOT / f"datasets/labels/{name}.txt").read_text().splitlines()


def test_flipped_labels_of_something_something(tiny, tmp_path):
    overrides = [*tiny, "DATA.RANDOM_FLIP", True, "MODEL.NUM_CLASSES", 174]
    names = names_of("sthv2")
    table = flipped_labels(load_config(None, [*overrides, "DATA.FLIP_LABELS", "auto"]), names)
    assert [name for name, m in zip(names, table, strict=True) if m is None] == [
        "Plugging something into something but pulling it right out as you remove your hand"
    ], "named a side, hence not flipped"
    swapped = {names[k]: names[m] for k, m in enumerate(table) if m not in (k, None)}
    pairs = [("Pulling something from {} to {}", 2), ("Pushing something from {} to {}", 2)]
    pairs += [("Turning the camera {} while filming something", 1)]
    for text, _ in pairs:
        assert swapped.pop(text.format("left", "right")) == text.format("right", "left")
        assert swapped.pop(text.format("right", "left")) == text.format("left", "right")
    assert not swapped, "'upright' is no side"
    assert flipped_labels(load_config(None, [*overrides, "DATA.FLIP_LABELS", "auto"]), ["Go left", "go"]) == [None, 1]
    file = tmp_path / "flips.json"
    cfg = load_config(None, [*overrides, "DATA.FLIP_LABELS", str(file)])
    file.write_text(json.dumps([[names[5], 7], [9]]))
    table = flipped_labels(cfg, names)
    assert (table[5], table[7], table[9], table[1]) == (7, 5, None, 1)
    for text, part in (('[["Dance"]]', "'Dance' is not a class"), ("[[1, 2, 3]]", "should be"), ("{", "cannot read")):
        file.write_text(text)
        with pytest.raises(UserError, match=part):
            flipped_labels(cfg, names)


def test_flipped_clips_have_the_flipped_label(tiny, demo):
    still = ["DATA.TRAIN_JITTER_SCALES", [32, 32], "DATA.SAMPLING_RATE", 4]
    classes = (demo / "classes.txt").read_text().splitlines()
    unflipped = VideoDataset(load_config(None, [*tiny, *still]), "train")
    flips = ["DATA.RANDOM_FLIP", True, "DATA.FLIP_LABELS", "auto"]
    data = VideoDataset(load_config(None, [*tiny, *still, *flips]), "train")
    seen = set()
    for index, sample in enumerate(data.samples):
        for epoch in range(4):
            item, clip = data[epoch, index], unflipped[epoch, index]["clips"]
            (label,), flipped = item["targets"].tolist(), torch.equal(item["clips"], clip.flip(-1))
            assert flipped or torch.equal(item["clips"], clip)
            assert label == (data.flip_labels[sample.label] if flipped else sample.label)
            seen.add((classes[sample.label], flipped))
    assert {("left", True), ("left", False)} <= seen and data.flip_labels[classes.index("left")] == classes.index(
        "right"
    )
