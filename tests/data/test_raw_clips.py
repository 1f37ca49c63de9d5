"""Raw clips on their way from a worker: batches, bytes, and the commands that read them."""

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.loader import build_loader, collate
from slowfast_uniformer.data.raw_clips import RawClips, to_device, transforms_on_device

AUGMENTED = ["AUG.ENABLE", True, "AUG.NUM_SAMPLE", 2, "AUG.RE_PROB", 0.9, "AUG.AA_TYPE", "rand-m7-n4-mstd0.5-inc1"]
BOXES = ["DATA.TRAIN_JITTER_SCALES_RELATIVE", [0.08, 1.0], "DATA.TRAIN_JITTER_ASPECT_RELATIVE", [0.75, 1.33]]


def test_auto_follows_the_device(tiny, monkeypatch):
    assert not transforms_on_device(load_config(None, tiny))
    assert transforms_on_device(load_config(None, [*tiny, "AUG.DEVICE", "device"]))
    monkeypatch.setattr("slowfast_uniformer.config.check.num_gpus", lambda: 1)
    assert transforms_on_device(load_config(None, [*tiny, "NUM_GPUS", 1]))
    assert not transforms_on_device(load_config(None, [*tiny, "NUM_GPUS", 1, "AUG.DEVICE", "cpu"]))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_batches_are_those_of_the_cpu(tiny, split, workers):
    keys = [*tiny, *AUGMENTED, *BOXES, "DATA_LOADER.NUM_WORKERS", workers]
    loaders = [build_loader(load_config(None, [*keys, "AUG.DEVICE", device]), split) for device in ("cpu", "device")]
    for expected, found in zip(*map(iter, loaders), strict=True):
        assert isinstance(found["clips"], RawClips) and len(found["clips"]) == len(expected["clips"])
        gap = (to_device(found["clips"], "cpu") - expected["clips"]).abs()
        assert gap.mean() * 0.225 * 255 < 0.6
        for key in ("labels", "videos", "views"):
            assert torch.equal(found[key], expected[key])


def test_two_ranks_have_the_clips_of_one(tiny, monkeypatch):
    cfg = load_config(None, [*tiny, *AUGMENTED, *BOXES, "AUG.DEVICE", "device"])
    one = [to_device(batch["clips"], "cpu") for batch in build_loader(cfg, "train")]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    ranks = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        ranks.append([to_device(batch["clips"], "cpu") for batch in build_loader(cfg, "train")])
    for whole, first, second in zip(one, *ranks, strict=True):
        clips = cfg.AUG.NUM_SAMPLE
        of_videos = [part for pair in zip(first.split(clips), second.split(clips), strict=True) for part in pair]
        assert torch.equal(whole, torch.cat(of_videos))


def test_the_loader_pins_the_buffer(tiny, monkeypatch):
    (batch, _) = build_loader(load_config(None, [*tiny, "AUG.DEVICE", "device"]), "train")
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: pinned.append(tensor) or tensor.clone())
    found = pin_memory(batch)
    assert any(tensor is batch["clips"].buffer for tensor in pinned)
    assert torch.equal(to_device(found["clips"], "cpu"), to_device(batch["clips"], "cpu"))


def test_large_frames_are_made_in_the_worker(tiny):
    keys = [*tiny, "DATA.TRAIN_CROP_SIZE", 8, "DATA.TRAIN_JITTER_SCALES", [8, 9]]
    (expected, found) = (
        VideoDataset(load_config(None, [*keys, "AUG.DEVICE", device]), "train")[0, 1]["clips"]
        for device in ("cpu", "device")
    )
    assert found.buffer.nbytes == expected.nbytes and torch.equal(to_device(found, "cpu"), expected)


def test_flipped_labels_come_with_flipped_clips(tiny, demo):
    keys = [*tiny, "DATA.FLIP_LABELS", "auto", "DATA.RANDOM_FLIP", True, "DATA.CLASS_NAMES", str(demo / "classes.txt")]
    batches = []
    for device in ("cpu", "device"):
        data = VideoDataset(load_config(None, [*keys, "AUG.DEVICE", device]), "train")
        batches.append(collate([data[0, index] for index in range(8)]))
    cpu, device = batches
    torch.testing.assert_close(to_device(device["clips"], "cpu"), cpu["clips"], rtol=0, atol=1e-4)
    assert torch.equal(cpu["labels"], device["labels"])
