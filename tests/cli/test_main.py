"""The command `uniformer` itself: help, errors and what is imported for them, shell completion."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, exit_status, tiny_overrides

import slowfast_uniformer
from slowfast_uniformer.cli import common, explain, export, main, plan, train
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.errors import LostRankError
from slowfast_uniformer.runs.log import Phase

HEAVY = (
    "torch torchvision pytorchvideo timm torchmetrics matplotlib tensorboard numpy pandas PIL av tqdm jinja2 "
    "safetensors simplejson pyarrow onnx gradio sklearn scipy"
).split()
CONFIG_ERRORS = {
    "unknown key SOLVER.BASELR": ["train", "--cfg", "demo/uniformer", "SOLVER.BASELR", "1"],
    "absent.yaml: no such config file": ["train", "--cfg", "absent.yaml"],
    "/nowhere/train.csv": ["train", "--cfg", "demo/uniformer", "DATA.PATH_TO_DATA_DIR", "/nowhere"],
    "/nowhere/test.csv": ["test", "--cfg", "demo/uniformer", "DATA.PATH_TO_DATA_DIR", "/nowhere"],
    "only its figure was published": ["test", "--cfg", "k400/uniformer_s_32x4", "--released", "NUM_GPUS", "0"],
    "/nowhere/test.csv: cannot read": [
        *["test", "--cfg", "k400/uniformer_s", "--released", "NUM_GPUS", "0", "DATA.PATH_TO_DATA_DIR", "/nowhere"]
    ],
    "unknown key NUM_GPU;": ["reproduce", "k400/*", "NUM_GPU", "0"],
    "no such config file or recipe; did you mean": ["reproduce", "k400/uniformer_z"],
    "--no-check submits without looking": [
        *["slurm", "--cfg", "demo/uniformer", "--gpus-per-node", "0", "--time", "60", "--print"],
        *["DATA.PATH_TO_DATA_DIR", "/nowhere/lists"],
    ],
    "no class folders": ["lists", "{empty}"],
    "name a VIDEO, FOLDER or LIST": ["predict", "--checkpoint", "runs/demo"],
    "absent.csv: cannot read the annotation file": [
        "predict",
        "--checkpoint",
        "x",
        "v.mp4",
        "--annotations",
        "absent.csv",
    ],
    "not given away without a licence": ["publish", "runs/demo", "published"],
}
RECORD = """
import contextlib, io, json, sys
from slowfast_uniformer.cli import common, main
for words in json.loads(sys.argv[1]):
    status, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            common.finish(lambda: main.run(words))
        except SystemExit as stop:
            status = stop.code
    packages = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps([status, out.getvalue(), err.getvalue(), packages]))
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> dict:
    """Of each call, all in one process one after another: status, output, errors, packages imported so far."""
    empty = str(tmp_path_factory.mktemp("empty"))
    commands = [
        [],
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in main.NAMES),
        ["config"],
        ["weights", "list"],
    ]
    commands += [[word.format(empty=empty) for word in words] for words in CONFIG_ERRORS.values()]
    done = subprocess.run(
        [sys.executable, "-c", RECORD, json.dumps(commands)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    keys = [*map(tuple, commands[: -len(CONFIG_ERRORS)]), *CONFIG_ERRORS]
    return dict(zip(keys, map(json.loads, done.stdout.splitlines()), strict=True))


def test_help_and_config_errors_import_nothing_heavy(calls):
    for words, (_, _, _, packages) in calls.items():
        assert not set(HEAVY) & set(packages), words


def test_config_errors_are_one_line(calls):
    for message in CONFIG_ERRORS:
        status, out, errors, _ = calls[message]
        assert (status, out) == (2, "") and message in errors.splitlines()[-1], errors
        assert errors.count("error: ") == 1 and "Traceback" not in errors


def test_the_overview_lists_every_command_with_its_sentence(calls):
    for words in ((), ("--help",)):
        status, out, errors, _ = calls[words]
        assert (status, errors) == (0, "")
        for name in main.NAMES:
            sentence = main.load_command(name).__doc__.splitlines()[0].split(":")[0].rstrip(".") + "."
            assert any(line.split() == [name, *sentence.split()] for line in out.splitlines())
    assert calls["--version",][1] == f"uniformer {slowfast_uniformer.__version__}\n"


@pytest.mark.parametrize("name", main.NAMES)
def test_help_of_a_command_has_a_sentence_an_example_and_where_keys_are_explained(calls, name):
    status, out, errors, _ = calls[name, "--help"]
    assert (status, errors) == (0, "")
    usage, sentence, example = out.split("\n\n")[:3]
    assert usage.startswith(f"usage: uniformer {name} ") and sentence.endswith(".")
    assert example.startswith(f"    uniformer {name}")
    takes_keys = "  --cfg " in out or "[KEY VALUE ...]" in usage
    assert ("docs/config.md" in out and "uniformer config" in out) == takes_keys


def test_every_module_of_a_command_is_in_the_table():
    modules = {path.stem for path in (ROOT / "slowfast_uniformer/cli").glob("*.py")} - {"__init__", "main", "common"}
    assert modules == {name.replace("-", "_") for name in main.NAMES}
    for name in main.NAMES:
        module = main.load_command(name)
        assert callable(module.main) and callable(module.parse_args) and module.__doc__


def test_an_unknown_command_names_the_nearest_one(command):
    status, out, errors = command("predcit")
    assert (status, out) == (2, "") and "unknown command 'predcit'" in errors and "predict" in errors


def test_python_m_is_the_same_command():
    words = [sys.executable, "-m", "slowfast_uniformer", "--version"]
    assert subprocess.run(words, capture_output=True, text=True, cwd=ROOT).stdout.startswith("uniformer ")


def test_choices_that_parsers_repeat_are_those_of_the_program():
    from slowfast_uniformer.analysis import plan as planning
    from slowfast_uniformer.inference import export as exporting
    from slowfast_uniformer.inference.saliency import METHODS

    assert plan.BANDWIDTH == inspect.signature(planning.plan).parameters["bandwidth"].default
    assert explain.METHODS == METHODS
    assert export.FORMATS == exporting.ENDINGS


def test_run_net_has_the_arguments_of_slowfast():
    parser = train.run_parser("train", "")
    options = [action.option_strings for action in parser._actions]
    assert options == [
        ["-h", "--help"],
        ["--cfg"],
        [],
        ["--small"],
        ["--init_method"],
        ["--num_shards"],
        ["--shard_id"],
    ]
    source = ast.parse((ROOT / "tools/run_net.py").read_text())
    assert not any(isinstance(node, ast.FunctionDef) for node in source.body)  # a shim over cli/train.py
    words = [sys.executable, "tools/run_net.py", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("usage: run_net.py [options] --cfg CONFIG") and done.returncode == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), 130), (common.signals.Interrupted(), 75), (common.UserError("no"), 2), (SystemExit(1), 1)],
)
def test_exit_status(error, status):
    def fail():
        raise error

    with pytest.raises(SystemExit) as stop:
        common.finish(fail)
    assert stop.value.code == status


def test_after_a_lost_rank_the_interpreter_is_not_ended(monkeypatch, capsys):
    """A thread of gloo that deletes a tensor while it ends would abort the process (exit status -6)."""
    statuses = []
    monkeypatch.setattr(os, "_exit", lambda status: statuses.append(status) or sys.exit(status))

    def fail():
        raise LostRankError("another rank has ended")

    with pytest.raises(SystemExit):
        common.finish(fail)
    assert statuses == [2] and capsys.readouterr().err == "error: another rank has ended\n"


def test_a_closed_output_ends_with_141():
    """The reader has ended before the first line is written."""
    program = f"sleep 0.5; {sys.executable} -u -m slowfast_uniformer config"
    script = f"({program}) | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (141, "") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [
        (">/dev/full", 2, "error: the output cannot be written: No space left on device\n"),
        ("2>/dev/full", 0, ""),
        (">&- 2>&-", 0, ""),
    ],
)
def test_streams_that_cannot_be_written(redirection, status, message):
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" -m slowfast_uniformer config {redirection}', sys.executable],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (status, message)


def test_an_error_that_is_no_full_disk_is_not_taken_for_one():
    def fail():
        raise PermissionError(13, "Permission denied", "x")

    with pytest.raises(PermissionError):
        common.finish(fail)


def test_dashes_before_a_key_are_answered(command):
    status, _, errors = command("train", "--cfg", "demo/uniformer", "--SOLVER.MAX_EPOCH", 3)
    assert status == 2 and "without dashes, such as SOLVER.MAX_EPOCH 3" in errors


PATHS = {
    "predict": ["--checkpoint", "c", "--overlay", "~/x.mp4", "--picture", "~/x.png", "~/$DISK/v.mp4"],
    "explain": ["--checkpoint", "c", "--output", "~/x", "--tensorboard", "~/x", "~/v.mp4"],
    "features": ["--checkpoint", "c", "--output", "~/x.parquet", "~/v.mp4"],
    "export": ["--checkpoint", "c", "--format", "onnx", "--output", "~/x.onnx", "--check", "~/v.mp4"],
    "report": ["~/run", "--output", "~/x.html"],
    "lists": ["~/videos", "--out", "~/lists"],
    "demo-data": ["--out", "~/demo"],
    "convert": ["~/a.pyth", "~/b.safetensors"],
    "train": ["--cfg", "~/c.yaml"],
    "check": ["--cfg", "~/c.yaml"],
    "slurm": ["--cfg", "~/c.yaml", "--gpus-per-node", "1", "--time", "1:00:00"],
}


@pytest.mark.parametrize("name", PATHS)
def test_a_command_expands_its_paths(name, monkeypatch):
    """A shell leaves them in quotes and behind --output=."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", "disk")
    args = vars(main.load_command(name).parse_args(PATHS[name]))
    given = sum("~" in word for word in PATHS[name])
    values = [str(v) for value in args.values() for v in (value if isinstance(value, list) else [value])]
    assert sum("/home/me/" in value for value in values) == given and not any("~" in value for value in values)


@pytest.fixture
def completed(monkeypatch):
    """Complete a command line with a stand-in for argcomplete; returns the parser that it was given."""

    def complete(line: str) -> SimpleNamespace:
        found = SimpleNamespace()

        def autocomplete(parser):
            found.parser, found.start = parser, os.environ["_ARGCOMPLETE"]
            raise SystemExit(0)

        monkeypatch.setitem(sys.modules, "argcomplete", SimpleNamespace(autocomplete=autocomplete))
        for name, value in {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit):
            main.run([])
        return found

    return complete


def test_completion_of_commands(completed):
    found = completed("uniformer tr")
    (action,) = [action for action in found.parser._actions if action.choices]
    assert list(action.choices) == main.NAMES and found.start == "1"


@pytest.mark.parametrize("name", main.NAMES)
def test_completion_of_a_command_s_options(completed, name):
    found = completed(f"uniformer {name} --")
    assert found.parser.prog == f"uniformer {name}" and found.start == "2"


PHASES = {
    "predict": ("predict", 25, ["--checkpoint", "{run}", "{demo}/videos"]),
    "explain": ("explain", 1, ["--checkpoint", "{run}", "--output", "{out}", "{video}"]),
    "features": ("features", 1, ["--checkpoint", "{run}", "--workers", "0", "--output", "{out}.parquet", "{video}"]),
    "probe": ("fit knn", 0, ["--checkpoint", "{run}", "--method", "knn", "--folds", "2", "--cache", "{out}"]),
    "check": ("check", 25, ["--cfg", "{run}/config.yaml", "--workers", "0", "--fast"]),
    "lists": ("look for videos in {demo}/videos", 0, ["{demo}/videos", "--out", "{out}"]),
    "transcode": ("transcode", 25, ["{demo}/videos", "{out}", "--workers", "0"]),
    "report": ("write the report", 0, ["{run}", "--output", "{out}.html"]),
}


@pytest.mark.parametrize("name", PHASES)
def test_what_may_take_minutes_is_a_phase(name, trained, demo, tmp_path, command, monkeypatch):
    """A `Phase` of the log writes a line a minute."""
    begun, enter = [], Phase.__enter__
    monkeypatch.setattr(Phase, "__enter__", lambda phase: (begun.append(phase), enter(phase))[1])
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "config.yaml").write_text(load_config(None, tiny_overrides(demo, run)).dump())
    (run / "metrics.jsonl").write_text('{"step": 1, "split": "test_final", "top1_acc": 50.0}\n')
    places = {"run": run, "demo": demo, "out": tmp_path / "out", "video": next((demo / "videos").glob("*/*.mp4"))}
    title, total, words = PHASES[name]
    status, _, errors = command(name, *(word.format_map(places) for word in words))
    assert status == 0, errors
    assert (title.format_map(places), total) in [(phase.title, phase.total) for phase in begun]
    assert all(phase.done == phase.total and phase._ended.is_set() for phase in begun)


def test_the_window_system_that_a_notebook_sets_for_pictures_is_not_needed(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module that is not installed")
    assert exit_status(lambda: int(os.environ["MPLBACKEND"] != "agg")) == 0
