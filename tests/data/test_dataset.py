"""The data set's items and their collation."""

import numpy as np
import pytest
import torch
import video_factory as factory
from PIL import Image

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


def segment_dataset(tmp_path, split, *overrides):
    overrides = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(tmp_path), *overrides]
    return VideoDataset(load_config(None, ["NUM_GPUS", 0, "MODEL.NUM_CLASSES", 2, *overrides]), split)


@pytest.mark.parametrize("rate", ["25", "29.97", "60", "variable"])
@pytest.mark.parametrize("sampling", ["kinetics", "kinetics_sparse"])
def test_clips_of_a_segment_are_inside_it(tmp_path, rate, sampling):
    times = factory.frame_times(rate)
    path = factory.write_timed_video(tmp_path / "a.mp4", times)
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").write_text("path,start,end,label\na.mp4,0.5,1.4,1\na.mp4,1.0,1.001,0\n")
        data = segment_dataset(tmp_path, split, "TRAIN.DATASET", sampling, "TEST.DATASET", sampling)
        inside = [k for k, time in enumerate(times) if 0.5 <= time < 1.4]
        with data.open(data.samples[0]) as video:
            views = [None] * 20 if split == "train" else range(data.temporal_views)
            numbers = [data.indices(video, view, data.samples[0].part) for view in views]
            assert {*np.concatenate(numbers).tolist()} <= {*inside}
            if sampling == "kinetics_sparse" and split != "val":  # from one end to the other
                assert min(map(min, numbers)) < inside[4] and max(map(max, numbers)) > inside[-5]
            (one,) = {*data.indices(video, 0, data.samples[1].part).tolist()}
            assert times[one] <= 1.001 and (one + 1 == len(times) or times[one + 1] > 1.0)
    assert path.exists() and data[0, 0]["clips"].shape[0] == data.views


def test_a_segment_beyond_the_end_is_one_message_with_file_and_line(tmp_path):
    factory.write_timed_video(tmp_path / "a.mp4", factory.frame_times("25", 50))
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("path,start,end,label\na.mp4,0,1,1\na.mp4,2.5,3,0\n")
    message = f"{tmp_path}/{{}}.csv, line 3: cannot read {tmp_path}/a.mp4: the segment from 2.5 to 3 s is beyond its"
    item = segment_dataset(tmp_path, "test")[0, 1]
    assert item["clips"] is None and item["errors"][0].cause == f"{message.format('test')} end at 2 s"
    train = segment_dataset(tmp_path, "train")
    item = train[0, 1]  # replaced by another sample; the file is not to blame
    assert item["clips"] is not None and item["video"] == 0 and not train.bad_videos
    assert item["errors"][0].cause == f"{message.format('train')} end at 2 s" and item["errors"][0].state is None


def test_segments_of_frame_folders_follow_their_frame_rate(tmp_path):
    for number in range(1, 21):
        (tmp_path / "f").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"f/{number:05d}.png")
    (tmp_path / "test.csv").write_text("path,frames,start,end,label\nf,20,1,2,1\n")
    sth = ["TEST.DATASET", "sth", "DATA.LABEL_PATH_TEMPLATE", "test.csv", "DATA.IMAGE_TEMPLATE", "{:05d}.png"]
    data = segment_dataset(tmp_path, "test", *sth, "DATA.FOLDER_FPS", 5.0, "DATA.NUM_FRAMES", 5)
    with data.open(data.samples[0]) as video:
        assert data.indices(video, 0, data.samples[0].part).tolist() == [5, 6, 7, 7, 8]


def test_a_video_that_an_epoch_draws_again_is_cropped_and_sampled_anew(tiny):
    dataset = VideoDataset(load_config(None, tiny), "train")
    first, again, third = dataset[1, 4], dataset[1, 4, 1], dataset[1, 4, 2]
    assert torch.equal(again["clips"], dataset[1, 4, 1]["clips"])
    assert first["label"] == again["label"] and again["video"] == 4
    assert not torch.equal(first["clips"], again["clips"]) and not torch.equal(third["clips"], again["clips"])
