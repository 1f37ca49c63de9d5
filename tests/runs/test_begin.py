"""What becomes of the run that OUTPUT_DIR holds when another one begins there."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
from conftest import ROOT

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import begin, checkpoints, starts

RESOLVED = load_config(None, ["NUM_GPUS", 0]).dump()


@pytest.fixture
def used(tmp_path):
    """A folder with all files of a run, and others."""
    out = tmp_path / "run"
    out.mkdir()
    for epoch in (1, 2):
        write_checkpoint(checkpoints.checkpoint_path(str(out), epoch), epoch)
    os.link(checkpoints.checkpoint_path(str(out), 1), checkpoints.best_path(str(out)))
    for name in set(begin.FILES) - {"checkpoints", "tensorboard", "wandb", "logs"}:
        (out / name).write_text(RESOLVED if name.startswith("config") else f"{name} of the former run\n")
    for name in ("tensorboard", "wandb", "logs"):
        (out / name).mkdir()
        (out / name / "file").write_text(name)
    for name in ("bad_files.txt", "check_dataset.csv", "slurm-7.out", "train.csv", "video.mp4"):
        (out / name).write_text(name)
    return out


def write_checkpoint(path: str, epoch: int) -> None:
    state = {"model_state": {"w": torch.full((2,), float(epoch))}, "optimizer_state": {}, "epoch": epoch}
    checkpoints.write_checkpoint(path, state)


def start(out, *overrides, training=True, **options) -> begin.Begun:
    cfg = load_config(None, ["NUM_GPUS", 0, "OUTPUT_DIR", str(out), *map(str, overrides)])
    with ExitStack() as stack:
        return begin.begin(cfg, training, stack, **options)


ANEW = ("TRAIN.AUTO_RESUME", False)


def content(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_of_a_run_are_set_aside_and_no_others(used):
    former = content(used)
    begun = start(used, *ANEW)
    assert begun.checkpoint is None and begun.overrides == []
    (note,) = begun.notes
    assert note == (
        f"TRAIN.AUTO_RESUME False: a new run begins; the files of the previous run are now in {used}/before_1"
    )
    left = {"bad_files.txt", "check_dataset.csv", "slurm-7.out", "train.csv", "video.mp4"}
    assert {path.name for path in used.iterdir()} == {*left, "before_1", ".lock"}
    moved = content(used / "before_1")
    assert moved == {name: data for name, data in former.items() if name not in left}
    assert start(used, *ANEW).notes == [], "nothing is left to set aside"
    (used / "log.txt").write_text("the next run")
    assert "before_2" in start(used, *ANEW).notes[0]
    assert content(used / "before_1") == moved and content(used / "before_2") == {"log.txt": b"the next run"}


def test_what_is_continued_or_only_tested_stays(used):
    former = content(used)
    begun = start(used)
    assert begun.checkpoint == checkpoints.checkpoint_path(str(used), 2) and not begun.notes
    assert start(used, *ANEW, training=False) == begin.Begun()
    assert {name: data for name, data in content(used).items() if name != ".lock"} == former


@pytest.mark.parametrize("moved", range(17))
def test_a_move_that_is_killed_is_ended_by_the_next_start(used, monkeypatch, moved):
    """Whether that begins anew, continues or tests."""
    former, rename = content(used), os.rename

    def or_die(*paths):
        if not moves:
            raise KeyboardInterrupt
        moves.pop()
        rename(*paths)

    moves = [None] * moved
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", or_die)
        try:
            start(used, *ANEW)
        except KeyboardInterrupt:
            assert (used / "before_1.moving").exists()
    options = ({"training": False}, {}, {"overrides": ANEW})[moved % 3]
    begun = start(used, *options.pop("overrides", ()), **options)
    assert begun.checkpoint is None
    assert not [name for name in os.listdir(used) if name.endswith(".moving") or name == "before_2"]
    moved_now = content(used / "before_1")
    assert all(former[name] == data for name, data in moved_now.items()) and len(moved_now) == len(former) - 5


def test_a_file_that_cannot_be_moved_leaves_all_where_they_were(used, monkeypatch):
    former, rename = content(used), os.rename

    def busy(source, target):
        if source.endswith("run/tensorboard"):
            raise OSError(16, "Device or resource busy", source)
        rename(source, target)

    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(UserError, match="tensorboard: Device or resource busy.*set another OUTPUT_DIR"):
        start(used, *ANEW)
    assert {name: data for name, data in content(used).items() if name != ".lock"} == former


def test_configs_that_are_the_user_s_stay(used):
    (used / "config.yaml").write_text("SOLVER: {MAX_EPOCH: 7}\n")
    start(used, *ANEW)
    assert (used / "config.yaml").exists() and not (used / "before_1" / "config.yaml").exists()
    (used / "config.yaml").write_text(RESOLVED)
    (used / "log.txt").touch()
    start(used, *ANEW, config_files=[str(used / "config.yaml")])
    assert (used / "config.yaml").read_text() == (used / "before_2" / "config.yaml").read_text() == RESOLVED


def test_a_link_to_another_disk_leads_there_from_its_new_place(used, tmp_path):
    (used / "checkpoints").rename(tmp_path / "disk")
    (used / "checkpoints").symlink_to("../disk")
    start(used, *ANEW)
    assert checkpoints.latest(str(used / "before_1")) and not (used / "checkpoints").exists()


def test_a_run_without_a_checkpoint_to_continue_is_kept_if_it_has_results(used):
    """Only its best checkpoint, damaged ones, or a test: with TRAIN.AUTO_RESUME, too."""
    for epoch in (1, 2):
        with open(checkpoints.checkpoint_path(str(used), epoch), "r+b") as file:
            file.truncate(100)
    begun = start(used)
    assert [part for note in begun.notes for part in ("is damaged", "before_1") if part in note] == [
        "is damaged",
        "is damaged",
        "before_1",
    ]
    (used / "metrics.jsonl").write_text("{}\n")  # a run that was killed before its first checkpoint
    assert start(used) == begin.Begun() and (used / "metrics.jsonl").exists()
    (used / "predictions.csv").write_text("a test of other weights")
    assert "no checkpoint to continue from: a new run begins" in start(used).notes[0]


@pytest.mark.parametrize("folder", [True, False])
def test_weights_named_in_what_is_set_aside_are_found(used, folder):
    best, latest = checkpoints.best_path(str(used)), checkpoints.checkpoint_path(str(used), 2)
    given = [used, used] if folder else [best, latest]
    (used / "config_resolved.yaml").write_text("TEST: {TEST_BEST: true}")
    keys = ["MODEL.INIT_FROM", given[0], "TRAIN.CHECKPOINT_FILE_PATH", given[1]]
    overrides = dict(zip(*[iter(start(used, *ANEW, *keys).overrides)] * 2, strict=True))
    names = {"MODEL.INIT_FROM": "best.pyth", "TRAIN.CHECKPOINT_FILE_PATH": "epoch_00002.pyth"}
    assert overrides == {key: f"{used}/before_1/checkpoints/{name}" for key, name in names.items()}
    assert all(map(checkpoints.load_checkpoint, overrides.values()))
    with pytest.raises(UserError, match="its folders before_1 have some"):
        checkpoints.find_checkpoint(str(used))


def test_a_restart_of_the_same_job_continues_its_run(used, monkeypatch):
    def rows(*starts):
        (used / "starts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in starts))

    own = checkpoints.checkpoint_path(str(used), 2)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    rows({"slurm": {"SLURM_JOB_ID": "17"}})
    begun = start(used, *ANEW)
    assert begun.checkpoint == own and "the job that began the run was restarted" in begun.notes[0]
    monkeypatch.delenv("SLURM_JOB_ID")

    rows({"process": "host 1", "launchers": ["id a 7 1", "id b 7 2"]}, {"process": "host 2", "launchers": ["id b 7 2"]})
    assert start(used, *ANEW, launchers=["id c 9 3", "id b 7 2"]).checkpoint == own
    rows({"process": starts._process(), "launchers": ["id b 7 2"]})
    assert start(used, *ANEW, launchers=["id b 7 2"]).checkpoint is None, "a script that trains twice"


@pytest.mark.parametrize(
    "row, environment",
    [
        ({"slurm": {"SLURM_JOB_ID": "17"}}, {"SLURM_JOB_ID": "17"}),  # a second command of the same job
        (
            {"slurm": {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"}},
            {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"},
        ),
        ({"slurm": {"SLURM_JOB_ID": "16"}}, {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"}),
        ({"slurm": {}, "launchers": ["none host 7 1"], "process": "host 1"}, {"launchers": ["none host 7 2"]}),
        ({}, {"launchers": ["none host 7 2"]}),
    ],
)
def test_another_job_begins_anew(used, monkeypatch, row, environment):
    (used / "starts.jsonl").write_text(json.dumps(row) + "\n")
    launchers = environment.pop("launchers", [])
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert start(used, *ANEW, launchers=launchers).checkpoint is None and (used / "before_1").exists()


HOLD = """
import fcntl, os, socket, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
print(f"process {os.getpid()} on {sys.argv[2] if len(sys.argv) > 2 else socket.gethostname()}", file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("host", [[], ["another.host"]])
def test_two_runs_at_once(used, host):
    words = [sys.executable, "-c", HOLD, str(used / ".lock"), *host]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout.readline() == "held\n"
        assert f"process {other.pid} on " in start(used, training=False).notes[0]
        if host:  # it may have failed, and its lock be left
            begun = start(used)
            assert f"process {other.pid} on another.host" in begun.notes[0] and begun.checkpoint
        with pytest.raises(UserError, match=f"OUTPUT_DIR: process {other.pid} on .* is writing"):
            start(used, *ANEW)
        assert not (used / "before_1").exists()
        other.stdin.close()
    assert not start(used).notes
