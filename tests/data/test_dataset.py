"""The data set's items and their collation."""

import numpy as np
import torch

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.loader import collate


def test_items_follow_from_epoch_and_index_alone(tiny):
    cfg = load_config(None, [*tiny, "AUG.ENABLE", True, "AUG.NUM_SAMPLE", 2])
    first, second = VideoDataset(cfg, "train"), VideoDataset(cfg, "train")
    second[0, 7], np.random.rand(), torch.rand(1)
    state = torch.get_rng_state()
    item = first[1, 3]
    assert torch.equal(torch.get_rng_state(), state), "loading must not disturb the caller's randomness"
    assert torch.equal(item["clips"], second[1, 3]["clips"])
    assert not torch.equal(item["clips"], second[2, 3]["clips"])
    assert item["clips"].shape == (2, 3, 4, 32, 32) and not torch.equal(*item["clips"])


def test_test_items_hold_all_views_in_order(tiny):
    data = VideoDataset(load_config(None, tiny), "test")
    item = data[0, 2]
    assert item["clips"].shape == (6, 3, 4, 32, 32) and item["views"].tolist() == list(range(6))
    one = VideoDataset(load_config(None, [*tiny, "TEST.NUM_SPATIAL_CROPS", 1]), "test")[0, 2]
    assert torch.equal(one["clips"], item["clips"][1::3]), "one crop is the centre one"


def test_frame_folders_give_the_clips_of_their_videos(tiny, demo):
    videos = VideoDataset(load_config(None, [*tiny, "TEST.DATASET", "kinetics_sparse"]), "test")
    sth = ["TEST.DATASET", "sth", "DATA.LABEL_PATH_TEMPLATE", "{}.csv"]
    sth += ["DATA.PATH_TO_DATA_DIR", str(demo / "sth"), "DATA.PATH_PREFIX", str(demo / "frames")]
    folders = VideoDataset(load_config(None, [*tiny, *sth]), "test")
    assert len(folders) == len(videos)
    assert folders[0, 1]["label"] == videos[0, 1]["label"]
    apart = (folders[0, 1]["clips"] - videos[0, 1]["clips"]).abs().mean()
    assert 0 < apart < 0.1, "the same frames but for JPEG's losses"


def test_bad_videos_are_replaced_in_training_and_never_in_testing(tiny, demo, tmp_path):
    lines = (demo / "train.csv").read_text().splitlines()
    broken = tmp_path / "lists"
    broken.mkdir()
    for split in ("train", "val", "test"):
        (broken / f"{split}.csv").write_text("\n".join(["gone.mp4 5", *lines[:3]]))
    cfg = load_config(None, [*tiny, "DATA.PATH_TO_DATA_DIR", str(broken), "TRAIN.MAX_BAD_VIDEOS", 20])
    item = VideoDataset(cfg, "train")[0, 0]
    assert item["clips"] is not None and item["video"] != 0 and "gone.mp4" in item["errors"][0][1]
    test = VideoDataset(cfg, "test")
    batch = collate([test[0, 0], test[0, 1]])
    assert batch["failed"] == [(0, 5)] and "gone.mp4" in batch["errors"][0][0]
    assert batch["videos"].tolist() == [1] * 6 and batch["clips"].shape[0] == 6
    assert collate([test[0, 0]])["clips"] is None


def test_a_video_that_an_epoch_draws_again_is_cropped_and_sampled_anew(tiny):
    dataset = VideoDataset(load_config(None, tiny), "train")
    first, again, third = dataset[1, 4], dataset[1, 4, 1], dataset[1, 4, 2]
    assert torch.equal(again["clips"], dataset[1, 4, 1]["clips"])
    assert first["label"] == again["label"] and again["video"] == 4
    assert not torch.equal(first["clips"], again["clips"]) and not torch.equal(third["clips"], again["clips"])
