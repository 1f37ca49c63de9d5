"""Tests of released checkpoints: published and measured figures, orders of classes, many recipes in one command.

The released file is a tiny model of 400 classes that stands in for UniFormer-S, and the lists' labels are its answers.
"""

import csv
import json
import shutil

import pytest
import torch
from conftest import tiny_overrides

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.config.recipes import labels_folder
from slowfast_uniformer.distributed.signals import Interrupted
from slowfast_uniformer.engine import job, published
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.weights.registry import checkpoints

SMALL = "uniformer_small_k400_16x4"
RECIPE = "k400/uniformer_s"
ALPHABETICAL, OWN = ((labels_folder() / f"{name}.txt").read_text().splitlines() for name in ("k400", "k400_uniformer"))


class Bench:
    """A machine with the stand-in's file, lists in any order of classes, and the config keys of the tiny model."""

    def __init__(self, demo, folder, command):
        self.folder, self._command = folder, command
        pairs = zip(*[iter(tiny_overrides(demo, folder))] * 2, strict=True)
        self.keys = {key: value for key, value in pairs if key not in ("OUTPUT_DIR", "TEST.NUM_ENSEMBLE_VIEWS")}
        self.keys |= {"MODEL.NUM_CLASSES": 400, "DATA.PATH_TO_DATA_DIR": str(folder / "lists")}
        self.videos = [line.split()[0] for line in (demo / "test.csv").read_text().splitlines()]
        (folder / "lists").mkdir()
        (folder / "weights").mkdir()

    @property
    def words(self):
        return [word for pair in self.keys.items() for word in pair]

    def write_weights(self):
        torch.manual_seed(2)
        model = build_model(load_config(RECIPE, self.words))
        torch.save(model.state_dict(), self.folder / "weights" / f"{SMALL}.pth")

    def write_list(self, names, order, named=True):
        """A list whose labels are numbers in `order`; the classes are named by a file beside it, or not."""
        lines = [f"{video} {order.index(name)}" for video, name in zip(self.videos, names, strict=True)]
        (self.folder / "lists/test.csv").write_text("\n".join(lines) + "\n")
        (self.folder / "lists/classes.txt").unlink(missing_ok=True)
        if named:
            (self.folder / "lists/classes.txt").write_text("\n".join(order) + "\n")

    def test(self, *further):
        return self._command("test", "--cfg", RECIPE, "--released", *self.words, *further)

    def reproduce(self, *words):
        return self._command("reproduce", *words[:-1], *self.words, *words[-1])

    def rows(self, recipe=RECIPE):
        path = self.folder / "runs/reproduce" / recipe / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def bench(demo, tmp_path, monkeypatch, command):
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Bench(demo, tmp_path, command)


@pytest.fixture
def answers(bench):
    """Of each video the class that the stand-in's largest logit has, by the release's order."""
    bench.write_weights()
    bench.write_list([OWN[0]] * len(bench.videos), OWN)
    assert bench.test("OUTPUT_DIR", "answers")[0] == 0
    rows = list(csv.DictReader((bench.folder / "answers/predictions.csv").open()))
    return [row["prediction_name"] for row in rows]


def test_published_and_measured_figures_in_any_order_of_classes(bench, answers):
    bench.write_list(answers, OWN)
    status, out, errors = bench.test()
    lines = [line.split() for line in out.splitlines()]
    assert status == 0 and "doubt" not in bench.rows()[-1], errors
    assert [SMALL, "published", "measured", "difference"] in lines
    assert ["top-1", "80.80", "100.00", "+19.20"] in lines and ["top-5", "94.70", "100.00", "+5.30"] in lines
    assert "k400_uniformer.txt, and lists/classes.txt has the same" in out.replace(f"{bench.folder}/", "")
    assert "the figures do not compare: measured with 4x1x4 views, published for 16x1x4" in out
    row = bench.rows()[-1]
    assert (row["published_top1"], row["published_top5"], row["published_views"]) == (80.8, 94.7, "16x1x4")
    assert row["checkpoint"] == row["published"] == SMALL and row["top1_acc"] == 100

    # An alphabetical list, its classes written in another way
    bench.write_list(answers, ALPHABETICAL)
    names = bench.folder / "lists/classes.txt"
    names.write_text(names.read_text().replace(" ", "_"))
    _, out, _ = bench.test()
    assert bench.rows()[-1]["top1_acc"] == 100 and "the classifier was reordered by name to that of" in out

    # The same without names: about chance, and the remedy is the one that works
    bench.write_list(answers, ALPHABETICAL, named=False)
    _, out, errors = bench.test()
    row = bench.rows()[-1]
    assert row["top1_acc"] == 0 and "the lists name no classes" in out and "k400_uniformer.txt" in row["class_order"]
    assert "most likely the order of classes" in errors and row["doubt"] in errors
    alphabetical = str(labels_folder() / "k400.txt")
    assert f"DATA.CLASS_NAMES FILE, such as {alphabetical} or " in row["doubt"]
    bench.test("DATA.CLASS_NAMES", alphabetical)
    assert bench.rows()[-1]["top1_acc"] == 100


def test_an_order_that_was_not_checked_and_is_another_one(bench, answers, monkeypatch):
    """The remedy is MODEL.INIT_HEAD map:FILE, and it works: here the registry says k400, wrongly."""
    monkeypatch.setitem(checkpoints()[SMALL].__dict__, "classes", "k400")
    monkeypatch.setitem(checkpoints()[SMALL].__dict__, "classes_certain", False)
    bench.write_list(answers, OWN)
    bench.test()
    doubt = bench.rows()[-1]["doubt"]
    file = str(labels_folder() / "k400_uniformer.txt")
    assert "k400.txt (not checked)" in doubt and f"MODEL.INIT_FROM {SMALL} MODEL.INIT_HEAD map:FILE" in doubt
    assert file in doubt
    status, out, errors = bench.test("MODEL.INIT_FROM", SMALL, "MODEL.INIT_HEAD", f"map:{file}")
    assert status == 0 and bench.rows()[-1]["top1_acc"] == 100, errors
    assert f"the rows of the weights are taken as MODEL.INIT_HEAD map:{file} says" in out


def test_many_recipes_go_on_after_failures_and_are_not_repeated(bench, answers, monkeypatch):
    bench.write_list(answers, OWN)
    recipes = ["k400/uniformer_s*8", RECIPE, ()]
    status, out, errors = bench.reproduce(*recipes)
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("k400/")}
    assert status == 2 and list(lines) == ["k400/uniformer_s_16x8", "k400/uniformer_s_8x8", RECIPE]
    assert lines[RECIPE].split()[1:] == "4x1x4 9 100.00 80.80 +19.20 100.00 94.70 +5.30".split() + (
        "measured with 4x1x4 views, published for 16x1x4".split()
    )
    assert "78.40" in lines["k400/uniformer_s_8x8"] and "not tested: uniformer_small_k400_8x8 is not here" in out
    assert "2 recipes of 3 not tested" in errors and errors.count("error: ") == 2
    assert "uniformer weights fetch uniformer_small_k400_8x8" in errors

    tests = []
    monkeypatch.setattr(job, "test", lambda cfg, _: tests.append(cfg.OUTPUT_DIR) or {})
    status, out, _ = bench.reproduce(RECIPE, ())
    assert status == 0 and "tested before" in out and not tests
    assert bench.reproduce(RECIPE, ["TEST.BATCH_SIZE", 2])[0] == 0 and not tests, "no figure depends on it"
    for changed in (["TEST.NUM_ENSEMBLE_VIEWS", 1], ["DATA.CLASS_NAMES", ""]):
        if not changed[1]:
            bench.write_list(answers[::-1], OWN, named=False)
        bench.reproduce(RECIPE, changed)
        assert tests.pop().endswith(RECIPE) and not tests

    def interrupt(cfg, small):
        raise Interrupted("a signal has requested a stop")

    bench.write_list(answers, ALPHABETICAL)
    with monkeypatch.context() as context:
        context.setattr(job, "test", interrupt)
        status, _, errors = bench.reproduce(RECIPE, ())
    assert status == 75 and errors.splitlines()[-1] == "interrupted; run the same command again to continue"
    bench.reproduce(RECIPE, ())
    assert len(tests) == 1, "an interrupted test is repeated"


def test_too_few_videos_are_a_failure_until_they_are_accepted(bench, answers):
    bench.write_list(answers, OWN)
    with (bench.folder / "lists/test.csv").open("a") as file:
        file.write("gone.mp4 0\n")
    status, out, errors = bench.reproduce(RECIPE, ())
    assert status == 2 and "1 of 10 videos could not be read" in out and "TEST.MIN_COVERAGE 90" in errors
    status, out, _ = bench.reproduce(RECIPE, ["TEST.MIN_COVERAGE", 90])
    assert status == 0 and "90.00 % of the videos predicted; tested before" in out


def test_missing_lists_are_a_row_each_and_one_message(bench, answers):
    shutil.rmtree(bench.folder / "lists")
    status, out, errors = bench.reproduce("k400/uniformer_s", "k400/uniformer_b", ())
    assert status == 2 and out.count("cannot read the test list") == 2 and "Set DATA." not in out
    assert errors.count("error: ") == 1 and "DATA.PATH_TO_DATA_DIR" in errors and "TEST.ENABLE False" not in errors


@pytest.mark.parametrize("place", ["uniformer_small_k400_16x4", "weights/uniformer_small_k400_16x4/checkpoints"])
def test_something_else_of_the_name_is_not_taken_for_the_release(bench, trained, place):
    shutil.copytree(trained / "checkpoints", bench.folder / place)
    status, _, errors = bench.test()
    assert status == 2 and "has the name of released weights, but need not be those. Rename it" in errors


def test_a_checkpoint_that_has_no_file_says_where_to_put_one(bench):
    status, _, errors = bench._command("test", "--cfg", f"{RECIPE}_32x4", "--released", *bench.words)
    assert status == 2 and "only its figure was published" in errors and "uniformer_small_k400_32x4.pth" in errors


def test_figures_that_are_not_known_are_dashes():
    row = {"published": "x", "published_top1": 50.0, "class_order": "", "top5_acc": 80.0}
    assert published.cells(row, "top1") == ["50.00", "-", "-"]
    assert published.cells(row, "top5") == ["-", "80.00", "-"]
    assert published.comparison({"top1_acc": 1.0}, None) == []
