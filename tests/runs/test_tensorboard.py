"""What TensorBoard shows of a run: names of runs, order of cards, texts; read back with TensorBoard's own code."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from conftest import ROOT, tiny_overrides
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.text.text_plugin import text_array_to_html
from tensorboard.summary.writer import event_file_writer
from tensorboard.util.tensor_util import make_ndarray

import slowfast_uniformer
from slowfast_uniformer.runs.files import read_json_lines
from slowfast_uniformer.runs.recorder import Recorder
from slowfast_uniformer.runs.tensorboard import (
    continued_folder,
    results_text,
    run_folder,
    scalars,
    start_text,
    validation_text,
)

TRAIN = {"split": "train_iter", "epoch": 1, "iter": 5, "iters": 9, "lr": 1e-5, "loss": 2.5, "top1_acc": 50.0}
TRAIN |= {"grad_norm": 1.0, "clips_per_second": 20.0, "data_wait_percent": 3.0, "bad_videos": 0, "skipped_steps": 0}
TRAIN |= {"memory_mb": 100.0, "eta_seconds": 12}
VAL = {"split": "val_epoch", "epoch": 1, "top1_acc": 40.0, "top5_acc": 90.0, "mean_class_acc": 39.0, "macro_f1": 38.0}
VAL |= {"coverage": 100.0, "num_videos": 64, "loss": 2.0, "temperature": 1.5, "unreadable_videos": 0}
VAL |= {"stale_validations": 0}
TEST = {"step": 9, "split": "test_final", "top1_acc": 44.0, "map": 50.25, "num_videos": 1234, "ece": None}
TEST |= {"top1_acc_low": 40.0, "top1_acc_high": 48.123, "views": "4 x 1", "checkpoint": "runs/a_b_c|d/e.pyth"}


@pytest.fixture(autouse=True)
def event_files_in_order(monkeypatch):
    """TensorBoard sorts event files by name: second, host, process and a number, which is a string there. Writers that
    follow each other within a second, as in these tests alone, must not go from 9 to 10."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(1000))


def place(tag: str) -> str:
    """A key by which TensorBoard 2.21 sorts cards (`compareTagNames`): _ and / are alike, and come before letters."""
    return tag.replace("_", "/")


def test_the_training_loss_is_the_first_card_and_what_is_watched_comes_last():
    rows = [TRAIN, {**TRAIN, "split": "train_epoch"}, VAL]
    tags = [tag for row in rows for tag in scalars({"step": 5, **row})]
    tags += ["visualization/test_confusion", "visualization/val_clips", "visualization/explain/a.png"]
    ordered = sorted(tags, key=place)
    assert ordered[:4] == ["train/loss", "train/loss_epoch", "train/top1_acc", "train/top1_acc_epoch"]
    assert ordered[4:9] == [f"val/{key}" for key in ("loss", "macro_f1", "mean_class_acc", "top1_acc", "top5_acc")]
    sections = list(dict.fromkeys(tag.split("/")[0] for tag in ordered))
    assert sections == ["train", "val", "visualization", "watch"] == sorted(sections)
    watched = ["bad_videos", "clips_per_second", "data_wait_percent", "grad_norm", "lr", "memory_mb", "skipped_steps"]
    watched += ["val_coverage", "val_temperature", "val_unreadable_videos"]
    assert [tag for tag in ordered if tag.startswith("watch/")] == [f"watch/{key}" for key in watched]


def test_trackers_have_the_figures_of_the_test():
    assert scalars(TEST) == {"test/top1_acc": 44.0, "test/map": 50.25, "test/ece": None}


# ------------------------------------------------------------------------------------------------- names of runs
def runs_below(folder) -> list[str]:
    """The names that TensorBoard gives the runs below a --logdir."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    return sorted(multiplexer.Runs())


def losses(folder) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def train_from(output_dir, step: int, *steps: int) -> None:
    """A run that continues after `step` and logs `steps`."""
    log = Recorder(str(output_dir), tensorboard=True, rank=0)
    log.resume(step, 0)
    for number in steps:
        log.write(number, {**TRAIN, "loss": float(number)})
    log.close()


def test_a_run_has_its_folders_name(tmp_path):
    demo = tmp_path / "runs" / "demo"
    train_from(demo, 0, 1, 2)
    assert runs_below(demo / "tensorboard") == ["demo"]
    assert runs_below(demo) == ["tensorboard/demo"]
    train_from(tmp_path / "runs" / "second", 0, 1)
    assert runs_below(tmp_path / "runs") == ["demo/tensorboard/demo", "second/tensorboard/second"]
    assert run_folder(f"{demo}/") == f"{demo}/tensorboard/demo" and run_folder("/") == "/tensorboard/run"


def test_the_folder_of_a_relative_output_dir(tmp_path, monkeypatch):
    (tmp_path / "my run").mkdir()
    monkeypatch.chdir(tmp_path / "my run")
    assert run_folder(".") == os.path.join(".", "tensorboard", "my run")


def test_a_resumed_run_goes_on_in_the_same_curves(tmp_path):
    train_from(tmp_path / "demo", 0, 1, 2, 3)
    train_from(tmp_path / "demo", 2, 3, 4)
    assert runs_below(tmp_path) == ["demo/tensorboard/demo"]
    assert losses(tmp_path / "demo/tensorboard/demo") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


def test_a_run_whose_folder_was_renamed_goes_on_under_the_new_name(tmp_path):
    demo, best = tmp_path / "demo", tmp_path / "best"
    train_from(demo, 0, 1, 2)
    pictures = demo / "tensorboard" / "a_look"  # `uniformer explain --tensorboard`, later than the run
    pictures.mkdir()
    (pictures / "events.out.tfevents.9999999999.host.1.0").touch()
    demo.rename(best)
    train_from(best, 2, 3)
    assert sorted(path.name for path in (best / "tensorboard").iterdir()) == ["a_look", "best"]
    assert losses(best / "tensorboard/best") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_events_of_earlier_versions_go_on_under_the_runs_name(tmp_path):
    train_from(tmp_path / "demo", 0, 1, 2)
    board, folder = tmp_path / "demo/tensorboard", tmp_path / "demo/tensorboard/demo"
    (folder / "00007").mkdir()  # of the projector
    (folder / "projector_config.pbtxt").touch()
    for path in list(folder.iterdir()):
        path.rename(board / path.name)
    folder.rmdir()
    train_from(tmp_path / "demo", 2, 3)
    assert [path.name for path in board.iterdir()] == ["demo"]
    assert {"00007", "projector_config.pbtxt"} < {path.name for path in folder.iterdir()}
    assert losses(folder) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert continued_folder(str(tmp_path / "demo")) == str(folder), "nothing is left to move"


# ------------------------------------------------------------------------------------------------- texts
def html(markdown: str) -> str:
    """As the Text tab shows it."""
    return text_array_to_html(np.array(markdown.encode(), dtype=object), True)


def cells(markdown: str) -> list[list[str]]:
    """The cells of the table in the Text tab."""
    rows = re.findall(r"<tr>(.*?)</tr>", html(markdown), re.DOTALL)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]


def test_the_table_of_a_test():
    assert cells(results_text(TEST)) == [
        ["test", "value", "95 % interval"],
        ["top-1 accuracy, %", "44.00", "40.00 to 48.12"],
        ["mean average precision, %", "50.25", ""],
        ["expected calibration error, %", "not finite", ""],
        ["videos", "1,234", ""],
        ["views", "4 x 1", ""],
        ["checkpoint", "runs/a_b_c|d/e.pyth", ""],
    ]


def test_what_is_doubtful_of_a_test_is_below_its_table():
    doubt = "most videos of a|b as c are predicted"
    text = results_text({**TEST, "doubt": doubt})
    assert cells(text) == cells(results_text(TEST)) and f"<p>To check: {doubt}</p>" in html(text)


def test_a_bar_in_a_cell_is_no_border():
    start = {"time": "a|b", "command": ["x"], "commit": "c|d", "device": "`` e|f ``", "ranks": 1, "machines": 1}
    start |= {"hosts": [], "videos_per_step": 1, "clips_per_step": 1, "learning_rate": 0.1}
    start |= {"python": "3.11", "versions": {}}
    assert cells(start_text(start))[:3] == [["started", "a|b"], ["commit", "c|d"], ["device", "e|f"]]


def test_the_table_of_the_validation_has_the_best_epoch():
    rows = [
        {"step": 10 * e, **VAL, "epoch": e, "top1_acc": a, "loss": 9.0 - e} for e, a in ((1, 1.5), (2, 5), (3, None))
    ]
    table = cells(validation_text(rows, "top1_acc"))
    assert table[0] == ["validation", "best by top1_acc: epoch 2", "last: epoch 3"]
    assert table[1] == ["top-1 accuracy, %", "5", "not finite"] and ["loss", "7", "6"] in table
    assert ["videos", "64", "64"] in table and "stale" not in str(table)
    assert cells(validation_text(rows, "loss"))[0][1] == "best by loss: epoch 3"
    assert cells(validation_text(rows[-1:], "top1_acc"))[0][1] == "best by top1_acc: epoch 3", "no value at all"


def test_the_start_of_a_run_has_its_command_and_versions():
    start = {"time": "2026-11-30T01:00:00+00:00", "command": ["tools/run_net.py", "--cfg", "a b.yaml"], "commit": None}
    start |= {"versions": {"torch": "2.14.1", "av": "18.1.0"}, "python": "3.11.7", "device": "cpu", "machines": 1}
    start |= {"ranks": 2, "videos_per_step": 12, "clips_per_step": 24, "learning_rate": 0.001, "hosts": ["node_1_a"]}
    shown = html(start_text(start))
    assert "<pre><code>tools/run_net.py --cfg 'a b.yaml'\n</code>" in shown
    pairs = [part for i in range(30) for part in (f"SECTION.KEY_{i}", str(i))]
    command = start_text({**start, "command": ["run", *pairs]}).split("```")[1]
    assert max(map(len, command.splitlines())) <= 105 and shlex.split(command.replace("\\\n", "")) == ["run", *pairs]
    table = cells(start_text(start))
    assert ["global batch", "12 videos, 24 clips"] in table and ["packages", "torch 2.14.1, av 18.1.0"] in table
    assert ["commit", "not in a checkout"] in table and ["processes on machines", "2 on 1 (node_1_a)"] in table


# ------------------------------------------------------------------------------------------------- a whole run
@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    """The folder of a run of three epochs, of which the last was trained by a second start, and its test."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    board = [*tiny_overrides(demo, out), "TENSORBOARD.ENABLE", True]
    for epochs in (2, 3):
        cfg = slowfast_uniformer.load_config(str(ROOT / "tests/empty.yaml"), [*board, "SOLVER.MAX_EPOCH", epochs])
        slowfast_uniformer.train(cfg)
    slowfast_uniformer.test(cfg)
    return out


@pytest.mark.slow
def test_no_curve_of_a_run_has_a_single_point(run):
    events = EventAccumulator(str(run / "tensorboard/demo")).Reload()
    steps = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert steps.pop("train/loss") == [1, 2, 3, 4, 5, 6]
    assert {tag: n for tag, n in steps.items() if len(n) < 2} == {}
    assert steps["val/top1_acc"] == [2, 4, 6]
    texts = [tag for tag, meta in events.summary_metadata.items() if meta.plugin_data.plugin_name == "text"]
    assert sorted(texts) == ["results/test", "results/validation", "run/model", "run/start", "settings/config"]
    (final,) = [row for row in read_json_lines(str(run / "metrics.jsonl")) if row["split"] == "test_final"]
    table = make_ndarray(events.Tensors("results/test")[-1].tensor_proto).item().decode()
    assert f"| top-1 accuracy, % | {final['top1_acc']:.2f} | {final['top1_acc_low']:.2f} to" in table
    assert "M parameters (" in make_ndarray(events.Tensors("run/model")[0].tensor_proto).item().decode()
    assert len(events.Tensors("run/start")) == 2, "both starts"


TITLES = """() => {  // the tags of cards that are seen, from top to bottom
  const found = [];
  const walk = root => { for (const element of root.children) {
    const tag = element.title || (element.children.length ? "" : element.textContent.trim());
    if (/^(train|val|watch|visualization)\\/\\w+$/.test(tag)) found.push([element.getBoundingClientRect().top, tag]);
    if (element.shadowRoot) walk(element.shadowRoot);
    walk(element);
  } };
  walk(document.body);
  return found.sort((a, b) => a[0] - b[0]).map(card => card[1]);
}"""


@pytest.fixture
def address(run):
    """Where TensorBoard, whole, shows the run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--logdir", str(run / "tensorboard"), "--port", str(port), "--load_fast", "false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        runs, end = [], time.monotonic() + 120
        while not runs and time.monotonic() < end and process.poll() is None:
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs") as answer:
                    runs = json.load(answer)
            except OSError:
                continue
        assert runs == ["demo"]
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("tab", ["timeseries", "scalars"])
def test_tensorboard_shows_the_training_loss_first(address, browser, tab):
    page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    page.goto(f"{address}#{tab}")
    page.wait_for_function(f"({TITLES})().length > 2", timeout=60_000)
    assert page.evaluate(TITLES)[0] == "train/loss"
    page.context.close()
