"""Each data set in its own format, in miniature: prepared, read, trained on and tested; label orders."""

import csv
import json
import os
import shutil
from functools import partial
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from conftest import ROOT, load_script
from torchmetrics.functional.classification import multilabel_average_precision

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations, sampling
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.engine.metrics import VideoAggregator
from slowfast_uniformer.errors import UserError

LABELS = ROOT / "datasets" / "labels"
prepare = load_script("datasets/prepare.py").prepare


def names_of(name):
    return (LABELS / f"{name}.txt").read_text().splitlines()


class Mini:
    """A folder for a miniature data set, and clips to fill it with."""

    def __init__(self, demo, folder):
        self.clips = [line.split()[0] for line in (demo / "train.csv").read_text().splitlines()]
        self.demo, self.folder = demo, folder
        self.videos, self.own, self.lists = (folder / name for name in ("videos", "own", "lists"))
        for path in (self.videos, self.own):
            path.mkdir(parents=True)

    def video(self, name: str, clip: int) -> None:
        path = self.videos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.demo / "videos" / self.clips[clip % len(self.clips)], path)

    def frames(self, name: str, clip: int, template: str) -> None:
        (self.videos / name).mkdir(parents=True)
        with av.open(str(self.demo / "videos" / self.clips[clip % len(self.clips)])) as container:
            for number, frame in enumerate(container.decode(video=0), 1):
                frame.to_image().save(self.videos / name / template.format(number))

    def write(self, name: str, text: str | list[str] | dict | tuple) -> None:
        content = "\n".join(text) if isinstance(text, list) else text
        (self.own / name).write_text(content if isinstance(content, str) else json.dumps(text))

    def prepare(self, name: str, **options) -> list:
        """Prepare; returns the overrides that use the lists."""
        self.made = prepare(name, self.own, self.lists, self.videos, **options)
        return ["DATA.PATH_TO_DATA_DIR", str(self.lists), "DATA.PATH_PREFIX", str(self.videos)]


def kinetics(mini, release="k400", classes=400):
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    rows = {"train": [("abseiling", 1), ("zumba", 2), ("yoga", 3), ("abseiling", 4)], "val": [("zumba", 5)]}
    for split, videos in rows.items():
        lines = [f"{name},abcdefgh_{k:02d},{k},{k + 10},{split},0" for name, k in videos]
        mini.write(f"{split}.csv", [header, *lines])
        for name, k in videos:
            mini.video(f"{split}/{name}/abcdefgh_{k:02d}_{k:06d}_{k + 10:06d}.mp4", k)
    (mini.videos / "train/yoga/abcdefgh_03_000003_000013.mp4").unlink()
    mini.video("train/yoga/abcdefgh_03.mp4", 3)  # a download without times in names
    (mini.videos / "train/abseiling/abcdefgh_04_000004_000014.mp4").unlink()
    overrides = mini.prepare(release)
    assert mini.made[1] == 1, "one video is not there"
    return [*overrides, "MODEL.NUM_CLASSES", classes], [classes - 1], 3


def kinetics_710(mini):
    for name, train, val in (("k400", "aa", "zz"), ("k600", "ab", "zy"), ("k700", "zb", "zx")):
        (mini.own / name).mkdir()
        mini.write(f"{name}/train.csv", [f"{c * 11}_000001_000011.mp4 1" for c in train])
        mini.write(f"{name}/val.csv", [f"{val[1] * 11}.mp4 2"])
        for c in {*train, val[1]}:
            mini.video(f"{name}/{c * 11}" + (".mp4" if c == val[1] else "_000001_000011.mp4"), ord(c))
    overrides = mini.prepare("k710")
    label_of = {n: json.loads((ROOT / f"slowfast_uniformer/labels/k710_to_{n}.json").read_text()) for n in ("k600",)}
    train = (mini.lists / "train.csv").read_text().splitlines()
    assert train == [  # a once, z nowhere as it is a validation video
        "k400/aaaaaaaaaaa_000001_000011.mp4 1",
        f"k600/bbbbbbbbbbb_000001_000011.mp4 {label_of['k600'][1]}",
    ]
    return [*overrides, "MODEL.NUM_CLASSES", 710, "TRAIN.BATCH_SIZE", 2], None, 2


def something_v1(mini):
    names = names_of("sthv1")
    mini.write("something-something-v1-train.csv", [f"{k};{names[k]}" for k in range(4)])
    mini.write("something-something-v1-validation.csv", [f"{k};{names[k + 90]}" for k in range(4, 6)])
    mini.write("something-something-v1-test.csv", ["6", "7"])
    for k in range(8):
        mini.frames(str(k), k, "{:05d}.jpg")
    overrides = [*mini.prepare("sthv1"), "TRAIN.DATASET", "sth", "TEST.DATASET", "sth"]
    assert (mini.lists / "somesomev1_rgb_test_split.txt").read_text() == "6 16 -1\n7 16 -1\n"
    return [*overrides, "MODEL.NUM_CLASSES", 174], [94, 95], 4


def sthv2_json(mini, prefix=""):
    names = names_of("sthv2")
    entry = {"label": "pulling a cup", "placeholders": ["a cup"]}
    templates = [name.replace("something", "[something]") for name in names]
    for split, ids in (("train", range(4)), ("validation", range(4, 6))):
        mini.write(f"{prefix}{split}.json", tuple({"id": str(k), "template": templates[80 + k], **entry} for k in ids))
    mini.write(f"{prefix}test.json", tuple({"id": str(k)} for k in (6, 7)))
    mini.write(f"{prefix}labels.json", {name: str(k) for k, name in enumerate(names)})
    for k in range(8):
        mini.video(f"{k}.webm", k)


def something_v2(mini):
    sthv2_json(mini)
    overrides = ["DATA.PATH_TO_DATA_DIR", str(mini.own), "DATA.PATH_PREFIX", str(mini.videos)]
    overrides += ["TRAIN.DATASET", "sthv2_json", "TEST.DATASET", "sthv2_json"]
    return [*overrides, "MODEL.NUM_CLASSES", 174], [84, 85], 4


def something_v2_frames(mini):
    sthv2_json(mini, "something-something-v2-")
    for k in range(8):
        mini.frames(str(k), k, "img_{:05d}.jpg")
    overrides = [*mini.prepare("sthv2"), "TRAIN.DATASET", "sth", "TEST.DATASET", "sth"]
    overrides += ["DATA.LABEL_PATH_TEMPLATE", "somesomev2_rgb_{}_split.txt", "DATA.IMAGE_TEMPLATE", "img_{:05d}.jpg"]
    return [*overrides, "MODEL.NUM_CLASSES", 174], [84, 85], 4


def moments(mini):
    rows = [("clapping", 0), ("typing", 1), ("adult+female+speaking", 2), ("clapping", 3)]
    mini.write("trainingSet.csv", [f"{name}/m_{k}.mp4,{name},3,0" for name, k in rows])
    mini.write("validationSet.csv", ["typing/m_4.mp4,typing,3,0"])
    for name, k in [*rows, ("typing", 4)]:
        mini.video(f"{name}/m_{k}.mp4", k)
    return [*mini.prepare("mit"), "MODEL.NUM_CLASSES", 339, "TEST.DATASET", "mit"], [338], 4


def activity_net(mini, name="anet", file="activity_net.v1-3.min.json"):
    parts = [("Archery", 1.0, 4.0), ("Zumba", 5.0, 30.2)]
    about = [("training", parts), ("training", parts[:1] * 2), ("validation", parts[1:] * 2), ("testing", [])]
    database = {
        f"vid{k}": {
            "duration": 30.0,
            "subset": subset,
            "annotations": [{"label": c, "segment": [s + i, e + i]} for i, (c, s, e) in enumerate(labels)],
        }
        for k, (subset, labels) in enumerate(about)
    }
    database["vid3"]["annotations"] = []
    mini.write(file, {"version": "1.3", "database": database})
    for k in range(4):
        mini.video(f"v_vid{k}.mp4" if name == "anet" else f"vid{k}.mkv", k)
    overrides = [*mini.prepare(name), "TRAIN.DATASET", "ant", "TEST.DATASET", "ant"]
    return [*overrides, "MODEL.NUM_CLASSES", 200], [names_of(name).index("Zumba")], 4


def hacs(mini):
    return activity_net(mini, "hacs", "HACS_segments_v1.1.1.json")


def ucf101(mini):
    names = names_of("ucf101")
    mini.write("classInd.txt", [f"{k} {name}" for k, name in enumerate(names, 1)])
    train = [("ApplyEyeMakeup", 8), ("YoYo", 8), ("HammerThrow", 9), ("Hammering", 9)]
    paths = [f"{name}/v_{name}_g{k:02d}_c01.avi" for name, k in [*train, ("YoYo", 1)]]
    mini.write("trainlist02.txt", [f"{p} {names.index(p.split('/')[0]) + 1}" for p in paths[:4]])
    mini.write("testlist02.txt", paths[4:])
    for k, path in enumerate(paths):
        mini.video(path, k)
    return [*mini.prepare("ucf101", split=2), "MODEL.NUM_CLASSES", 101], [100], 4


def hmdb51(mini):
    for name in names_of("hmdb51"):
        uses = "1121100" if name == "pullup" else "0"
        lines = [f"{name}_#{k};_u_cm_np1_fr_{k}.avi {use} " for k, use in enumerate(uses)]
        mini.write(f"{name}_test_split1.txt", lines)
        for k in range(len(uses)) if len(uses) > 1 else ():
            mini.video(f"{name}/{name}_#{k};_u_cm_np1_fr_{k}.avi", k)
    return [*mini.prepare("hmdb51"), "MODEL.NUM_CLASSES", 51], [26], 4


def hmdb51_frames(mini):
    lists = {"train": range(4), "val": range(4, 6)}
    for split, ids in lists.items():
        mini.write(f"{split}.txt", [f"a_#{k}_f_cm 16 {k}" for k in ids])
        for k in ids:
            mini.frames(f"a_#{k}_f_cm", k, "img_{:05d}.jpg")
    overrides = ["TRAIN.DATASET", "hmdb", "TEST.DATASET", "hmdb", "DATA.IMAGE_TEMPLATE", "img_{:05d}.jpg"]
    overrides += ["DATA.PATH_TO_DATA_DIR", str(mini.own), "DATA.PATH_PREFIX", str(mini.videos)]
    return [*overrides, "DATA.LABEL_PATH_TEMPLATE", "{}.txt", "MODEL.NUM_CLASSES", 51], [4, 5], 4


BUILDERS = {
    "k400": kinetics,
    "k600": partial(kinetics, release="k600", classes=600),
    "k700": partial(kinetics, release="k700", classes=700),
    "k710": kinetics_710,
    "sthv1": something_v1,
    "sthv2_json": something_v2,
    "sthv2": something_v2_frames,
    "mit": moments,
    "anet": activity_net,
    "hacs": hacs,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "hmdb": hmdb51_frames,
}
QUICK = ["SOLVER.MAX_EPOCH", 1, "TEST.NUM_ENSEMBLE_VIEWS", 1, "TEST.NUM_SPATIAL_CROPS", 1, "TRAIN.BATCH_SIZE", 2]


def results(tmp_path):
    run = tmp_path / "run"
    rows = {row["split"]: row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    with open(run / "predictions.csv", encoding="utf-8") as file:
        return rows, list(csv.DictReader(file))


@pytest.mark.parametrize("name", BUILDERS)
def test_from_its_own_files_to_a_tested_model(name, tiny, demo, run_net, tmp_path):
    overrides, test_labels, videos = BUILDERS[name](Mini(demo, tmp_path / "mini"))
    status, out, errors = run_net([*tiny, *QUICK, *overrides])
    assert status == 0, errors
    rows, predictions = results(tmp_path)
    assert np.isfinite(rows["train_epoch"]["loss"]) and rows["train_epoch"]["iters"] == videos // 2
    assert rows["train_epoch"]["bad_videos"] == 0 and rows["test_final"]["coverage"] == 100
    assert rows["test_final"]["num_videos"] == len(predictions) and "top-1" in out
    if test_labels:
        assert [int(row["label"]) for row in predictions] == test_labels


def test_other_files_beside_videos_and_images_do_not_count(tmp_path):
    videos = tmp_path / "videos"
    for name in ("a/x.mp4", "a/x.txt", "a/x.zzz", "pool/y.mkv", "clip/Thumbs.db", "clip/00000.jpg", "clip/00001.jpg"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.mp4").touch()
    (videos / "linked").symlink_to(tmp_path / "elsewhere")
    source = load_script("datasets/prepare.py").Source(tmp_path, videos, [])
    assert [source.path(f"{name}.mp4") for name in "xyz"] == ["a/x.mp4", "pool/y.mkv", "linked/z.mp4"]
    assert source.frames("clip", "{:05d}.jpg") == 2 and source.frames("a", "{:05d}.jpg") == 0 and source.missing == 1


def test_the_unlabelled_test_set_gives_a_submission(tiny, demo, run_net, tmp_path):
    mini = Mini(demo, tmp_path / "mini")
    overrides = [*tiny, *QUICK, *something_v2(mini)[0]]
    assert run_net([*overrides, "TEST.ENABLE", False])[0] == 0
    overrides += ["TRAIN.ENABLE", False, "DATA.LABEL_PATH_TEMPLATE", "test.json"]
    status, out, errors = run_net(overrides)
    assert status == 0 and "no labels" in out, errors
    rows, predictions = results(tmp_path)
    assert "top1_acc" not in rows["test_final"] and rows["test_final"]["num_videos"] == 2
    lines = [line.split(";") for line in (tmp_path / "run" / "submission.csv").read_text().splitlines()]
    assert [line[0] for line in lines] == ["6", "7"] and all(set(line[1:]) <= set(names_of("sthv2")) for line in lines)
    assert [len(set(line)) for line in lines] == [6, 6]
    assert [row["prediction_name"] for row in predictions] == [line[1] for line in lines]
    assert predictions[0]["label"] == predictions[0]["correct"] == ""
    with pytest.raises(UserError, match="label -1 is outside"):
        annotations.load(load_config(None, overrides), "train")


def test_a_template_that_no_class_has(tiny, demo, tmp_path):
    mini = Mini(demo, tmp_path / "mini")
    overrides = [*tiny, *something_v2(mini)[0]]
    mini.write("train.json", ({"id": "9", "template": "Juggling [something]"},))
    with pytest.raises(UserError, match=r"train.json, video 1 \(id 9\): no class is named 'Juggling something'"):
        annotations.load(load_config(None, overrides), "train")
    (mini.own / "labels.json").unlink()
    with pytest.raises(UserError, match="labels.json"):
        annotations.load(load_config(None, overrides), "train")


def test_annotations_in_utf_16_and_names_of_files_that_are_not_utf_8(demo, tmp_path):
    mini = Mini(demo, tmp_path)
    for name in ("train.csv", "val.csv"):
        text = "label,youtube_id,time_start,time_end,split\nabseiling,abc,1,11,train\n"
        (mini.own / name).write_bytes(text.encode("utf-16"))
    lists, _ = prepare("k400", mini.own, mini.lists)
    assert lists["train.csv"] == ["abseiling/abc_000001_000011.mp4 0"]

    (mini.videos / os.fsdecode(b"caf\xe9")).mkdir()
    (mini.videos / os.fsdecode(b"caf\xe9") / "abc.mp4").touch()
    with pytest.raises(UserError, match=r"'caf\\xe9/abc.mp4 0': the name of this file is not UTF-8"):
        prepare("k400", mini.own, tmp_path / "other", mini.videos)
    assert not (tmp_path / "other").exists()


def test_label_orders():
    counts = {
        "k400": 400,
        "k400_uniformer": 400,
        "k600": 600,
        "k700": 700,
        "k710": 710,
        "sthv1": 174,
        "sthv2": 174,
        "mit": 339,
        "anet": 200,
        "hacs": 200,
        "ucf101": 101,
        "hmdb51": 51,
    }
    names = {name: names_of(name) for name in counts}
    assert {path.stem for path in LABELS.glob("*.txt")} == set(counts)
    for name, count in counts.items():
        assert len(names[name]) == len(set(names[name])) == count, name
    for name in ("k400", "k600", "k700", "sthv1", "sthv2", "hmdb51"):
        assert names[name] == sorted(names[name]), name
    assert names["k710"] != sorted(names["k710"]), "Kinetics-400's classes, then the others"
    assert names["k400_uniformer"][:2] == ["riding a bike", "marching"]
    assert sorted(names["k400_uniformer"]) == names["k400"]
    assert names["mit"][:3] == ["clapping", "praying", "dropping"] and names["mit"][-1] == "typing"
    assert names["ucf101"][34:36] == ["Hammering", "HammerThrow"], "as classInd.txt, not as sort has it"
    assert (names["hmdb51"][26], names["hmdb51"][36]) == ("pullup", "shoot_gun")
    assert (names["anet"][0], names["anet"][199]) == ("Applying sunscreen", "Playing badminton")
    assert names["sthv1"][134] == "Something falling like a feather or paper"
    assert names["sthv2"][93] == "Pushing something from left to right"


def test_k710_maps_lead_to_the_same_class():
    """But for names that changed from one release to the next, "balloon blowing" to "inflating balloons"."""
    k710 = names_of("k710")
    for name, renamed in (("k400", 13), ("k600", 2), ("k700", 1)):
        channels = json.loads((ROOT / f"slowfast_uniformer/labels/k710_to_{name}.json").read_text())
        pairs = [(a.lower(), k710[k].lower()) for a, k in zip(names_of(name), channels, strict=True)]
        differ = [pair for pair in pairs if pair[0] != pair[1]]
        assert len(differ) == renamed, differ


def test_training_clips_stay_in_the_annotated_part_and_test_views_span_the_video(tiny, demo, tmp_path, monkeypatch):
    overrides = [*tiny, *activity_net(Mini(demo, tmp_path / "mini"))[0]]
    train, test = (VideoDataset(load_config(None, overrides), split) for split in ("train", "test"))
    assert [sample.part for sample in train.samples[:2]] == [(1.0, 4.0, 30.0), (6.0, 31.2, 30.0)]
    read = []
    monkeypatch.setattr(
        Video,
        "read",
        lambda video, numbers: read.append(np.asarray(numbers)) or np.zeros((len(numbers), 40, 40, 3), "u1"),
    )
    for epoch in range(30):
        train[epoch, 0]
    assert {int(n) for numbers in read for n in numbers} == {0, 1}, "frames 16 * 1 / 30 to 16 * 4 / 30"
    read.clear()
    for epoch in range(30):
        train[epoch, 1]
    assert {int(n) for numbers in read for n in numbers} == set(range(3, 16)), "to the end, never beyond it"
    read.clear()
    test[0, 0]
    wanted = {n for view in range(2) for n in sampling.sparse(16, 4, view, 2).tolist()}
    assert set(read[0].tolist()) == wanted and max(wanted) > 8


def test_a_part_is_sampled_as_the_releases_do(tiny, demo, tmp_path, monkeypatch):
    """The recorded rows' total, start and last frame follow from seconds and the video's length."""
    overrides = [*tiny, *activity_net(Mini(demo, tmp_path / "mini"))[0]]
    data, given = VideoDataset(load_config(None, overrides), "train"), []
    monkeypatch.setattr(sampling, "sparse", lambda total, n, start, last: given.append((total, start, last)))
    for frames, part in ((100, (5.0, 30.25, 50.0)), (100, (60.0, 110.5, 100.0)), (21, (0.0, 7.3, 21.0))):
        data.indices(SimpleNamespace(frames=frames), None, part)
    assert given == [(50.5, 10, 99), (50.5, 60, 99), (pytest.approx(7.3), 0, 20)]


MULTI = ["DATA.MULTI_LABEL", True]


def test_multi_label_training_and_testing(tiny, demo, run_net, tmp_path):
    mini = Mini(demo, tmp_path / "mini")
    mini.write("Charades_v1_classes.txt", [f"c{k:03d} Holding thing {k}, or two" for k in range(157)])
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
    actions = ["c002 11.90 21.20;c000 0.00 12.60;c002 1.0 2.0", "c001 0 4", "", "c156 0 1;c001 2 3"]
    for split, ids in (("train", "AB12"), ("test", "CD34")):
        mini.write(
            f"Charades_v1_{split}.csv",
            [header, *(f'{k},,,,,Yes,"a, b",,,{a},30' for k, a in zip(ids, actions, strict=True))],
        )
        for k, name in enumerate(ids):
            mini.video(f"{name}.mp4", k)
    overrides = [*tiny, *QUICK, *mini.prepare("charades"), *MULTI, "MODEL.NUM_CLASSES", 157]
    assert (mini.lists / "train.csv").read_text().splitlines() == ["A.mp4 0,2", "B.mp4 1", "1.mp4 -", "2.mp4 1,156"]
    status, out, errors = run_net([*overrides, "TENSORBOARD.ENABLE", True])
    assert status == 0 and "mAP" in out, errors
    rows, predictions = results(tmp_path)
    assert 0.6 < rows["train_epoch"]["loss"] < 0.8, "about log 2: binary cross-entropy from random weights"
    probabilities = torch.tensor(
        [[float(row[f"probability of {name}"]) for name in names_in(mini)] for row in predictions]
    )
    labels = torch.zeros(4, 157, dtype=torch.int64)
    labels[[0, 0, 1, 3, 3], [0, 2, 1, 1, 156]] = 1
    assert [row["label"] for row in predictions] == ["0,2", "1", "", "1,156"]
    present = labels.any(0)
    expected = multilabel_average_precision(probabilities[:, present], labels[:, present], int(present.sum())).item()
    assert rows["test_final"]["map"] == pytest.approx(100 * expected, abs=1)
    assert rows["val_epoch"]["map"] == pytest.approx(rows["test_final"]["map"], abs=1)


def names_in(mini):
    return (mini.lists / "classes.txt").read_text().splitlines()


@pytest.mark.parametrize("softmax", [True, False])
def test_multi_label_scores_are_averaged_over_views_and_merged_over_ranks(softmax):
    logits = torch.tensor([[2.0, -1.0], [0.0, 1.0], [1.0, -2.0], [3.0, 0.5]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    whole, one, two = (VideoAggregator(3, 2, 2, "sum", softmax, multi_label=True) for _ in range(3))
    videos, views = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    for scores, rows in ((whole, [0, 1, 2, 3]), (one, [0, 1]), (two, [2, 3])):
        scores.update(logits[rows], videos[rows], views[rows], labels[rows])
    for scores in (whole, two):
        scores.fail(2, torch.tensor([1.0, 1.0]))
    one.merge([one.state(), two.state()])
    assert one.result() == whole.result()
    pairs = logits.double().view(2, 2, 2)
    mean = pairs.sigmoid().mean(1) if softmax else pairs.mean(1).sigmoid()
    assert torch.allclose(whole.probabilities()[:2], mean) and not whole.probabilities()[2].any()
    assert whole.labels.tolist() == [[1, 0], [0, 1], [1, 1]]
    assert whole.result()["coverage"] == pytest.approx(200 / 3) and whole.result()["num_videos"] == 3


@pytest.mark.parametrize(
    "overrides, part",
    [
        ([*MULTI, "MIXUP.ENABLE", True], "MIXUP.ENABLE"),
        ([*MULTI, "DATA.PATH_LABEL_SEPARATOR", ","], "DATA.PATH_LABEL_SEPARATOR"),
        (["DATA.FLIP_LABELS", "auto", "DATA.RANDOM_FLIP", False], "DATA.RANDOM_FLIP"),
    ],
)
def test_keys_that_exclude_each_other(overrides, part, tiny):
    with pytest.raises(UserError, match=part):
        load_config(None, [*tiny, *overrides])


def test_preparation_names_file_line_and_remedy(demo, tmp_path):
    mini = Mini(demo, tmp_path / "mini")
    with pytest.raises(UserError, match="holds no train.csv; see datasets/DATASET.md"):
        mini.prepare("k600")
    ucf101(mini)
    with pytest.raises(UserError, match="train.csv.*already; --force"):
        mini.prepare("ucf101", split=2)
    mini.prepare("ucf101", split=2, force=True)
    mini.write("trainlist01.txt", ["YoYo/a.avi 101", "YoYo/b.avi 36"])
    with pytest.raises(UserError, match="trainlist01.txt, line 2: label 36, but classInd.txt says 101"):
        mini.prepare("ucf101", force=True)
    mini.write("classInd.txt", ["1 ApplyEyeMakeup", "2 Archery"])
    with pytest.raises(UserError, match="classInd.txt, line 2: Archery is class 2 here, not 3"):
        mini.prepare("ucf101", force=True)
    mini.write("trainingSet.csv", ["x/a.mp4,x,1,1"])
    with pytest.raises(UserError, match="trainingSet.csv, line 1: 'x' is not one of the 339 classes"):
        mini.prepare("mit")
    mini.write("trainingSet.csv", ["typing/a.mp4,typing"])
    mini.write("validationSet.csv", ["typing/b.mp4,typing"])
    with pytest.raises(UserError, match="train.csv would be empty; is --videos"):
        mini.prepare("mit")
