"""The report on runs: its figures, odd and damaged runs, and the page in a browser."""

import csv
import json

import pytest
import yaml
from damaged_run_files import DAMAGED

from slowfast_uniformer.analysis.report import render, report, short_names, train_time
from slowfast_uniformer.analysis.report_figures import chart, thin
from slowfast_uniformer.cli.common import finish
from slowfast_uniformer.cli.report import main
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.class_balance import ClassBalance, write_class_balance
from slowfast_uniformer.runs.folder import read_run
from slowfast_uniformer.runs.predictions import COLUMNS

NASTY = """<script>alert("x")</script> 'é' & 好"""
TRAIN = {
    "split": "train_iter",
    "iters": 10,
    "lr": 1e-3,
    "grad_norm": 2.0,
    "clips_per_second": 4.0,
    "data_wait_percent": 3.0,
    "bad_videos": 1,
    "skipped_steps": 2,
    "memory_mb": 100.0,
    "eta_seconds": 200,
}


def rows_of(epochs: int, last: int = 10) -> list[dict]:
    """Rows of a training that has reached step `last` of its last epoch, with a validation after each epoch."""
    rows = []
    for epoch in range(1, epochs + 1):
        for done in (5, 10):
            step = 10 * (epoch - 1) + done
            if epoch < epochs or done <= last:
                row = {**TRAIN, "step": step, "epoch": epoch, "iter": done}
                rows.append({**row, "loss": 3.0 / step, "top1_acc": step})
        if epoch < epochs or last == 10:
            rows.append({"step": 10 * epoch, "split": "val_epoch", "epoch": epoch, "top1_acc": 10.0 * epoch})
    return rows


TESTED = {
    "step": 30,
    "split": "test_final",
    "top1_acc": 62.5,
    "top5_acc": 87.5,
    "mean_class_acc": 60.0,
    "coverage": 100.0,
    "num_videos": 8,
    "checkpoint": "a.pyth",
}
CONFIG = {
    "SOLVER": {"MAX_EPOCH": 3, "BASE_LR": 0.25},
    "TRAIN": {"BATCH_SIZE": 8},
    "NUM_SHARDS": 1,
    "AUG": {"ENABLE": True, "NUM_SAMPLE": 2},
    "MODEL": {"MODEL_NAME": "Uniformer"},
}
START = {
    "time": "2026-01-02T03:04:05+00:00",
    "command": ["tools/run_net.py", "--cfg", NASTY],
    "commit": "c" * 40 + "+",
    "versions": {"torch": "2.9"},
    "python": "3.11.7",
    "device": "cpu",
    "ranks": 2,
    "hosts": ["here"],
}


def predictions_of(names, pairs):
    """Rows of predictions.csv of (true, predicted) labels; None is a video that failed."""
    rows = [[*COLUMNS, "top1_name", "top1_probability", "top2_name", "top2_probability"]]
    for i, (true, predicted) in enumerate(pairs):
        head = [f"videos/{i} {NASTY}.mp4", true, names[true]]
        if predicted is None:
            rows.append(head + [""] * 8)
        else:
            top = [names[predicted], 0.9, names[true], 0.04]
            rows.append([*head, predicted, names[predicted], int(predicted == true), 0.9, *top])
    return rows


@pytest.fixture
def make(tmp_path):
    """A function that writes a run's folder."""

    def write(name="run", rows=(), config=CONFIG, starts=(START,), predictions=None):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "starts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in starts))
        if config is not None:
            (folder / "config.yaml").write_text(yaml.safe_dump({**config, "OUTPUT_DIR": str(folder)}))
        if predictions is not None:
            with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(predictions)
        return str(folder)

    return write


@pytest.fixture
def command(capsys):
    """Call `uniformer report`; returns exit status, standard output and standard error."""

    def call(*arguments):
        status = 0
        try:
            finish(lambda: main(list(map(str, arguments))))
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def tested(make):
    pairs = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (1, 0), (2, 2), (2, None)]
    return make("tested", [*rows_of(3), TESTED], predictions=predictions_of(["up", NASTY, "down"], pairs))


def text_at(page, width, scheme="light"):
    """The page's visible text at this width, which it must not exceed."""
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    return page.inner_text("body")


def brightness(page):
    return sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")[:3]))


def test_page_of_a_real_run(run_net, tiny, tmp_path, page):
    assert run_net([*tiny, "SOLVER.MAX_EPOCH", 1])[0] == 0
    path = report([str(tmp_path / "run")])
    assert path == str(tmp_path / "run" / "report.html")
    page.goto(f"file://{path}")
    figures = [row for row in map(json.loads, open(tmp_path / "run" / "metrics.jsonl"))][-1]
    for scheme in ("light", "dark"):
        for width in (1280, 400):
            text = text_at(page, width, scheme)
            assert f"{figures['top1_acc']:.2f} %" in text and "test videos\n9" in text
    loaded = "[...document.querySelectorAll('.strip img')].map((image) => image.naturalHeight)"
    assert set(page.evaluate(loaded)) == {96}  # the frames of the mistakes' videos
    assert page.locator(".missing").count() == 0
    assert page.locator(".chart").count() == 7


def test_dark_mode_and_values_under_the_pointer(tested, page):
    page.goto(f"file://{report([tested])}")
    page.emulate_media(color_scheme="light")
    light = brightness(page)
    page.emulate_media(color_scheme="dark")
    assert brightness(page) < 200 < 600 < light
    page.click("#scheme")
    assert brightness(page) == light
    page.click("#scheme")
    assert brightness(page) < 200
    plot = page.locator(".chart", has_text="Top-1 accuracy").locator(".plot")
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] - 1, "y": 20})
    said = page.locator(".chart", has_text="Top-1 accuracy").locator(".readout span")
    assert said.all_inner_texts() == ["epoch 3.0", "training 30", "validation 30", "test 62.5"]
    plot.hover(position={"x": box["width"] / 2, "y": 20})
    assert said.all_inner_texts() == ["epoch 1.5", "training 15", "validation 10"]


def test_names_are_escaped(tested, page):
    page.goto(f"file://{report([tested])}")
    text = text_at(page, 400)
    assert NASTY in text and f"videos/2 {NASTY}.mp4" in text
    assert page.locator("script").count() == 1
    assert page.locator(".missing").count() == 3


def test_metrics_classes_and_cost(tested, page):
    page.goto(f"file://{report([tested])}")
    text = text_at(page, 1280)
    assert "top-1\n62.50 %\ntest" in text and "best top-1\n30.00 %\nvalidation, epoch 3" in text
    assert "test videos\n8\nall predicted" in text
    matrix = page.locator(".confusion tbody tr").all()
    assert [row.locator("td").all_inner_texts() for row in matrix] == [
        ["2", "1", "", ""],
        ["2", "1", "", ""],
        ["", "", "1", "1"],
    ]
    bars = page.locator(".bars tbody").inner_text().split()
    assert [word for word in bars if word in ("66.7", "50.0", "33.3")] == ["66.7", "50.0", "33.3"]
    pairs = page.locator(".names tbody tr").all_inner_texts()
    assert [row.split("\t") for row in pairs] == [[NASTY, "up", "2", "66.7"], ["up", NASTY, "1", "33.3"]]
    facts = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    # 30 steps of 8 videos, 2 clips each, at 4 clips per second, on 2 devices
    assert facts["Time in training steps"] == "0:02:00" and facts["Device hours in steps"] == "0.07"
    assert facts["Commit"] == "c" * 10 + "+" and facts["Unreadable videos replaced"] == "6"
    assert facts["SOLVER.BASE_LR"] == "0.25" and "OUTPUT_DIR" not in facts


TORCHRUN = {**START, "hosts": ["a", "b"], "ranks": 8}  # 2 machines, of which NUM_SHARDS 1 says nothing


def without(start, *keys):
    return {key: value for key, value in start.items() if key not in keys}


@pytest.mark.parametrize(
    ("start", "augment", "clips"),
    [
        ({**TORCHRUN, "machines": 2, "videos_per_step": 16, "clips_per_step": 32}, True, 32),
        ({**TORCHRUN, "machines": 2, "videos_per_step": 16, "clips_per_step": 16}, False, 16),
        (TORCHRUN, True, 32),  # as older runs recorded it
        (TORCHRUN, False, 16),
        (without(START, "hosts"), False, 8),
    ],
)
def test_device_hours_follow_the_topology_and_the_augmentation(make, start, augment, clips):
    """Under torchrun NUM_SHARDS is 1; NUM_SAMPLE clips of a video there are only with AUG.ENABLE."""
    config = {**CONFIG, "AUG": {"ENABLE": augment, "NUM_SAMPLE": 2}}
    seconds, device_seconds = train_time(read_run(make("run", rows_of(3), config, [start])))
    assert seconds == 30 * clips / 4.0  # 30 steps at 4 clips per second
    assert device_seconds == start["ranks"] * seconds


def test_time_of_each_row_follows_its_own_start(make):
    """Two epochs on one machine with 4 ranks; on two machines with 8 the third has half as many steps."""
    one = {**START, "machines": 1, "ranks": 4, "videos_per_step": 8, "clips_per_step": 16}
    two = {**START, "machines": 2, "ranks": 8, "videos_per_step": 16, "clips_per_step": 32}
    rows = rows_of(2) + [{**TRAIN, "step": 25, "epoch": 3, "iter": 5, "iters": 5}]
    seconds, device_seconds = train_time(read_run(make("run", rows, starts=[one, two])))
    assert seconds == (20 * 16 + 5 * 32) / 4.0
    assert device_seconds == (4 * 20 * 16 + 8 * 5 * 32) / 4.0


def test_starts_that_only_test_take_no_training_time(make):
    training = {**START, "machines": 2, "ranks": 8, "clips_per_step": 32}
    testing = {**START, "machines": 1, "ranks": 1, "clips_per_step": 16}
    config = {**CONFIG, "TRAIN": {"BATCH_SIZE": 8, "ENABLE": False}}
    seconds, device_seconds = train_time(read_run(make("run", rows_of(3), config, [training, testing, testing])))
    assert (seconds, device_seconds) == (30 * 32 / 4.0, 8 * 30 * 32 / 4.0)


def test_three_runs_side_by_side(tested, make, page):
    other = {**CONFIG, "SOLVER": {"MAX_EPOCH": 3, "BASE_LR": 0.5}}
    going = make("going", rows_of(2, last=5), other)
    with open(going + "/metrics.jsonl", "a") as file:
        file.write('{"step": 31, "spl')
    lossless = [{**row, "loss": None} for row in rows_of(3) if row["split"] == "train_iter"]
    plain = make("plain", lossless, None, ())
    page.goto(f"file://{report([tested, going, plain], tested + '/all.html')}")
    text = text_at(page, 400)
    assert "tested · going · plain" in text and "epoch 2 of 3, 0:03:20 left" in text
    assert page.locator(".chart").first.locator(".line").count() == 2  # the third run has no finite loss
    keys = dict(row.split("\t", 1) for row in page.locator(".keys tbody tr").all_inner_texts())
    assert keys == {"SOLVER.BASE_LR": "0.25\t0.5\t?"}


def test_confusion_matrix_of_many_classes_is_an_image(make, page):
    names = [f"a class that has a long name, number {i}" for i in range(40)]
    pairs = [(i, i if i % 3 else (i + 1) % 40) for i in range(40)]
    page.goto(f"file://{report([make(rows=[*rows_of(3), TESTED], predictions=predictions_of(names, pairs))])}")
    assert "40 classes in label order" in text_at(page, 400)
    size = page.locator(".matrix").evaluate("(image) => [image.naturalWidth, image.naturalHeight]")
    assert size == [40, 40]
    assert page.locator(".names tbody tr").count() == 14


def test_multi_label_classes_are_ranked_by_average_precision(make):
    head = [*COLUMNS, "top1_name", "top1_probability", *(f"probability of {name}" for name in "abc")]
    rows = [
        ["0.mp4", "0,1", "a; b", 0, "a", 1, 0.9, "a", 0.9, 0.9, 0.2, 0.1],
        ["1.mp4", "1", "b", 2, "c", 0, 0.8, "c", 0.8, 0.1, 0.1, 0.8],
        ["2.mp4", "0", "a", 1, "b", 0, 0.7, "b", 0.7, 0.3, 0.7, 0.1],
        ["3.mp4", "1", "b"] + [""] * 9,
    ]
    figures = {"step": 30, "split": "test_final", "map": 77.8, "coverage": 75.0, "num_videos": 4}
    html = render([read_run(make(rows=[figures], predictions=[head, *rows]))])
    assert "77.80 %" in html and "mAP" in html and "75.00 % predicted" in html
    assert html.index(">100.0<") < html.index(">63.9<")  # b: (1/2 + 2/3 + 3/4) / 3
    assert "Confusion" not in html and "average precision" in html


def test_class_balance(make):
    """Of a run that has done something about it."""
    balanced, plain = make("balanced", rows_of(1)), make("plain", rows_of(1))
    assert "Class balance" not in render([read_run(plain)])
    write_class_balance(balanced, [ClassBalance(k, f"<{k}>", 1000 * k + 7, 2.25 * k, 0.5) for k in range(400)])
    html = render([read_run(plain), read_run(balanced)])
    assert html.count('<h2 id="balance">') == 1 and "without the 380 classes between" in html
    row = '<tr><th scope="row">&lt;{}&gt;</th><td class="number">{}</td><td class="number">{}</td>'
    assert row.format(0, 7, "0.0") in html and row.format(399, "399,007", "897.8") in html
    assert row.format(200, "200,007", "450.0") not in html and html.count('<td class="number">0.5</td>') == 20


def test_a_doubt_about_the_test_is_shown(make, tested):
    html = render([read_run(make(rows=[{**TESTED, "doubt": "top-1 is no better than chance"}]))])
    assert "<strong>To check:</strong> top-1 is no better than chance" in html
    assert "To check:" not in render([read_run(tested)])


def test_list_without_labels(make):
    rows = [[*COLUMNS, "top1_name", "top1_probability"], ["0.mp4", "", "", 0, "a", "", 0.9, "a", 0.9]]
    figures = {"step": 0, "split": "test_final", "coverage": 100.0, "num_videos": 1}
    html = render([read_run(make(rows=[figures], predictions=rows))])
    assert "no labels" in html and "test only" in html and 'id="mistakes"' not in html and "<svg" not in html


@pytest.mark.parametrize(("file", "content", "said"), DAMAGED)
def test_damaged_files_are_named(make, tmp_path, command, file, content, said):
    folder = make(rows=rows_of(1))
    (tmp_path / "run" / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = command(folder)
    assert status == 2 and out == "" and said in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run" / "report.html").exists()


def test_folder_without_run_and_output_that_cannot_be_written(make, tmp_path, command):
    status, _, err = command(tmp_path)
    assert status == 2 and "no metrics.jsonl" in err
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for output in (tmp_path / "folder", tmp_path / "file" / "a.html"):
        folder = make(f"run {output.name}", rows_of(1))
        status, _, err = command(folder, "--output", output)
        assert status == 2 and err.startswith("error: --output: cannot write")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "run a.html", "run folder"]
    status, out, _ = command(folder, "--output", tmp_path / "new" / "a.html")
    assert (status, out.strip()) == (0, str(tmp_path / "new" / "a.html"))


def test_folds_are_reported_side_by_side_and_not_compared(make, tmp_path, command):
    (tmp_path / "run").mkdir()
    for number in (1, 2):
        make(f"run/fold_{number}", [*rows_of(1), TESTED], predictions=predictions_of(["up", "down"], [(0, 0), (1, 0)]))
    status, out, _ = command(tmp_path / "run")
    assert (status, out) == (0, f"{tmp_path}/run/report.html\n")
    page = (tmp_path / "run/report.html").read_text()
    assert "fold_1" in page and "fold_2" in page and 'id="difference"' not in page
    status, _, err = command(tmp_path / "run", tmp_path / "run/fold_1")
    assert status == 2 and f"Name one, such as {tmp_path}/run/fold_1" in err


def test_former_page_stays_where_writing_fails(tested, tmp_path, monkeypatch):
    path = tmp_path / "tested" / "report.html"
    path.write_text("before")

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        report([tested])
    names = ["config.yaml", "metrics.jsonl", "predictions.csv", "report.html", "starts.jsonl"]
    assert path.read_text() == "before" and sorted(entry.name for entry in path.parent.iterdir()) == names


def test_rows_with_missing_and_odd_values(make):
    rows = [
        {"step": 1, "split": "train_iter"},
        {"step": 2, "split": "train_iter", "epoch": "x", "loss": 1.0},
        {"step": 3, "split": "val_epoch", "epoch": 1, "top1_acc": "high"},
        {"step": 4, "split": "other"},
        {**TRAIN, "step": 5, "epoch": 1, "iter": 1, "loss": 7.25, "iters": 0},
    ]
    html = render([read_run(make(rows=rows, config={}, starts=[{"hosts": None, "versions": None}]))])
    assert "7.25" in html


def test_relative_paths_of_videos_are_resolved_from_the_working_directory_of_the_run(make, tmp_path):
    run = read_run(make("made", rows_of(1)))
    (tmp_path / "made" / "config.yaml").write_text("OUTPUT_DIR: made/\n")
    assert run.find("a.mp4") == "a.mp4"
    assert read_run(run.path).find("a/b.mp4") == str(tmp_path / "a/b.mp4")
    assert read_run(run.path).find("/a.mp4") == "/a.mp4"


def test_short_names():
    assert short_names(["runs/a", "runs/b/"]) == ["a", "b"]
    assert short_names(["x/1/run", "x/2/run"]) == ["1/run", "2/run"]
    assert short_names(["x/run", "x/run"]) == ["run", "run"]


def test_charts():
    assert chart("t", "", [(0, "train", [])]) is None
    drawn = chart("t", "%", [(0, "train", [(1.0, 0.0), (2.0, 50.0)]), (1, "test", [(4.0, 100.0)])])
    assert drawn["right"] == 4.0 and drawn["y"][0] == (0.0, "0") and drawn["y"][-1] == (100.0, "100")
    assert [line["path"] for line in drawn["lines"]] == ["M250.0 1000.0L500.0 500.0", "M1000.0 0.0"]
    assert [line["dots"] for line in drawn["lines"]] == ["", "M1000.0 0.0h0"]
    for value in (0.0, 1.0, -2.5, 1e-30, 1e30):
        assert chart("t", "", [(0, "val", [(0.1, value)])])["lines"][0]["dots"]
    assert thin([(i, 2.0 * i) for i in range(10)], 4) == [(1.0, 2.0), (4.0, 8.0), (7.0, 14.0), (9.0, 18.0)]
