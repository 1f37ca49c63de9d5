"""SLURM: its variables, the job script, and a real one that requeues jobs, started here on the loopback.

The real one needs Debian's slurm-wlm and munge; as root they are installed where apt-get can.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from processes import LONG_RUN, ON_SIGNAL, assert_same_end, finish, kill, pairs, start, stderr_of, steps_done, until

from slowfast_uniformer.cli import train
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.distributed.slurm import parse_time_limit, submit
from slowfast_uniformer.distributed.topology import slurm_address, slurm_task
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights import download

CLUSTER = ["bash", str(ROOT / "tests/slurm_cluster.sh")]
STEP = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "localhost",
}
SIGNALLED = pairs(LONG_RUN, ON_SIGNAL)


@pytest.fixture
def variables(monkeypatch):
    """A function that sets SLURM's variables, and no others of launchers, over those of a step."""

    def put(**changes: str) -> None:
        present = [name for name in os.environ if name.startswith("SLURM")]
        for name in ["RANK", "MASTER_ADDR", "MASTER_PORT", *present]:
            monkeypatch.delenv(name, raising=False)
        for name, value in {**STEP, **changes}.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("tasks", "node", "here"),
    [("2(x3),1", 2, 2), ("2(x3),1", 3, 1), ("8", 0, 8), ("4,2(x2),1", 1, 2), ("1(x12),3", 12, 3)],
)
def test_a_task_knows_its_place(variables, tasks, node, here):
    variables(SLURM_STEP_TASKS_PER_NODE=tasks, SLURM_NODEID=str(node))
    assert slurm_task() == {"RANK": 5, "WORLD_SIZE": 7, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": here}


def test_a_batch_script_is_no_task(variables, monkeypatch):
    variables()
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert slurm_task() is None


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("gpu[03-05,07],big1", "gpu03"), ("n1", "n1"), ("big1,gpu[03-05]", "big1"), ("a-b[1,4]", "a-b1")],
)
def test_tasks_meet_on_the_first_node(variables, monkeypatch, nodes, host):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda name, port: asked.append(name))
    variables(SLURM_STEP_NODELIST=nodes)
    assert slurm_address() == f"tcp://{host}:{20000 + 7 * 4242 % 12768 + 1}"
    assert asked == [host]


def test_a_node_name_that_is_no_host(variables, monkeypatch):
    def unknown(name: str, port: None) -> None:
        raise OSError

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    variables(SLURM_LAUNCH_NODE_IPADDR="10.1.2.3")
    assert slurm_address().startswith("tcp://10.1.2.3:")
    variables(MASTER_ADDR="10.9.9.9", MASTER_PORT="1234")
    assert slurm_address() == "tcp://10.9.9.9:1234"


@pytest.mark.slow
@pytest.mark.parametrize(("while_", "signalled"), [("training", 2), ("testing", 1)])
def test_tasks_leave_with_one_code(tiny, tmp_path, variables, while_, signalled):
    """With DataLoader workers, and the later one although srun sends it SIGTERM when the first has left."""
    length = ["SOLVER.MAX_EPOCH", 1000 if while_ == "training" else 1, "TEST.NUM_ENSEMBLE_VIEWS", 100]
    out, tasks = tmp_path / "run", []
    log = out / "log.txt"
    try:
        for n in "01":
            variables(
                SLURM_JOB_ID=str(os.getpid()),
                SLURM_STEP_NUM_TASKS="2",
                SLURM_STEP_TASKS_PER_NODE="2",
                SLURM_NODEID="0",
                SLURM_PROCID=n,
                SLURM_LOCALID=n,
                SLURM_STEP_NODELIST="no-such-host.invalid",
                SLURM_LAUNCH_NODE_IPADDR="127.0.0.1",
            )
            tasks.append(start([*tiny, *SIGNALLED, *length], out))
        begun = "epoch 1 [" if while_ == "training" else "testing "
        until(lambda: log.exists() and begun in log.read_text())
        for task in tasks[:signalled]:
            task.send_signal(signal.SIGUSR1)
        until(lambda: any(task.poll() is not None for task in tasks))
        for task in tasks:
            task.send_signal(signal.SIGTERM)
        codes = [task.wait(timeout=60) for task in tasks]
    finally:
        for task in tasks:
            kill(task)
    assert codes == [signals.EXIT_CODE] * 2, stderr_of(out)
    assert checkpoints.latest(str(out)) and not (out / "predictions.csv").exists()


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 5400), ("1:30", 90), ("24:00:00", 86400), ("2-12", 216000), ("1-1:1:1", 90061)]
)
def test_times(text, expected):
    assert parse_time_limit(text) == expected


@pytest.fixture
def write(tiny, command):
    """Call `uniformer slurm` with these words; returns exit status, standard output (the script) and error."""

    def call(*words: str, opts: list = tiny, show: str = "--print") -> tuple[int, str, str]:
        resources = ["--gpus-per-node", "0", "--time", "24:00:00"]
        return command("slurm", *resources, *words, *show.split(), "--cfg", ROOT / "tests/empty.yaml", *opts)

    return call


@pytest.mark.parametrize(
    ("words", "opts", "said"),
    [
        (["--time", "tomorrow"], [], "--time: 'tomorrow'"),
        (["--time", "9"], [], "shorter than twice --warn 300"),
        (["--gpus-per-node", "many"], [], "--gpus-per-node: 'many'"),
        (["--tasks-per-node", "0"], [], "--tasks-per-node: 0"),
        (["--nodes", "0"], [], "NUM_SHARDS: 0"),
        (["--tasks-per-node", "3"], [], "TRAIN.BATCH_SIZE: 8 videos cannot be divided among 3 tasks"),
        (["--gpus-per-node", "a100:3"], [], "TRAIN.BATCH_SIZE: 8 videos cannot be divided among 3 GPUs"),
        ([], ["SOLVER.MAX_EPOCHS", 3], "SOLVER.MAX_EPOCH"),
        (["--sbatch", "exclusive\nrm"], [], "must be one line"),
        (["--no-check"], ["OUTPUT_DIR", "/proc/none"], "OUTPUT_DIR: cannot make /proc/none"),
        ([], ["MODEL.INIT_FROM", "/nowhere/w.pth"], "/nowhere/w.pth: no such file"),
        ([], ["TRAIN.CHECKPOINT_FILE_PATH", "/nowhere/w.pyth"], "no such file or folder: /nowhere/w.pyth"),
        ([], ["DATA.PATH_PREFIX", "/nowhere"], "train.csv: 8 of 16 videos tried, and none is there"),
        ([], ["DATA.PATH_TO_DATA_DIR", ""], "cannot read the train list"),
        (["--nodes", "3"], [], "the train list has 16 videos, fewer than one batch of 24"),
        (["--folds"], [], "has no folds"),
    ],
)
def test_what_cannot_work_is_said_before_it_is_submitted(write, tiny, words, opts, said):
    status, text, errors = write(*words, opts=[*tiny, *opts])
    assert (status, text) == (2, "") and said in errors
    assert "--no-check" not in errors or "batch" not in said, "no way to submit what would fail"


def test_what_only_the_nodes_see_is_submitted_without_looking(write, tiny):
    opts = [*tiny, "DATA.PATH_PREFIX", "/nowhere"]
    status, text, errors = write(opts=opts)
    assert (status, text) == (2, "") and "none is there" in errors and errors.count("\n") == 1
    assert "--no-check submits without looking" in errors
    status, text, errors = write("--no-check", opts=opts)
    assert status == 0 and "\nsrun " in text and not errors


def test_notes_before_a_job_is_submitted(write, tiny, monkeypatch, tmp_path):
    """On few clips and steps with the job's own ranks, and on weights, which are not fetched yet."""
    for name in ("SLOWFAST_UNIFORMER_OFFLINE", "HF_HUB_OFFLINE", "SLOWFAST_UNIFORMER_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("a source was asked"))
    name = "uniformer_small_k400_16x4"
    status, text, errors = write("--nodes", "2", "--tasks-per-node", "8", opts=[*tiny, "MODEL.INIT_FROM", name])
    assert status == 0 and text.startswith("#!")
    clips, steps, weights = sorted(errors.splitlines())
    assert clips.startswith("note: 1 clip at a time on each of 16 ranks") and "only 1 step an epoch" in steps
    assert f"{name} is not on this machine" in weights and f"`uniformer weights fetch {name}`" in weights
    monkeypatch.setenv("SLOWFAST_UNIFORMER_OFFLINE", "1")
    status, text, errors = write(opts=[*tiny, "MODEL.INIT_FROM", name])
    assert (status, text) == (2, "") and f"{name} is not here" in errors


def test_weights_of_the_wrong_size_are_noted(write, tiny, monkeypatch, tmp_path):
    """By path and by name, in the words of the run's own warning; a file of another name can be anything."""
    path = tmp_path / "uniformer_small_k400_16x4.pth"
    path.write_bytes(bytes(100))
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(tmp_path))
    for name in (path, path.stem):
        status, text, errors = write(opts=[*tiny, "MODEL.INIT_FROM", name])
        assert status == 0 and text.startswith("#!")
        assert f"note: MODEL.INIT_FROM: {path}: it has 100 bytes instead of 85,735,325: it is not the pub" in errors
        assert f"`uniformer weights verify {path}` compares it" in errors
    other = path.rename(tmp_path / "mine.pth")
    status, _, errors = write(opts=[*tiny, "MODEL.INIT_FROM", other])
    assert status == 0 and "bytes" not in errors


def test_a_folder_of_weights_that_only_the_job_knows(write, tiny, monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "SLOWFAST_UNIFORMER_WEIGHTS", "SLOWFAST_UNIFORMER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("a source was asked"))
    path = tmp_path / "uniformer_small_k400_16x4.pth"
    setup = ["--setup", f"export SLOWFAST_UNIFORMER_WEIGHTS={tmp_path}"]
    hint = "--setup mentions SLOWFAST_UNIFORMER_WEIGHTS, which these checks do not see: export it in this shell, too"
    path.write_bytes(bytes(100))
    for name, expected in ((path.stem, 0), ("mine", 2)):  # one that the run could fetch, and one that it could not
        opts = [*tiny, "MODEL.INIT_FROM", name]
        status, _, errors = write(*setup, opts=opts)
        assert status == expected and hint in errors
        assert hint not in write(opts=opts)[2]
    status, _, errors = write(*setup, opts=[*tiny, "DATA.PATH_PREFIX", "/nowhere"])
    assert status == 2 and hint not in errors
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(tmp_path))
    status, _, errors = write(*setup, opts=[*tiny, "MODEL.INIT_FROM", path.stem])
    assert status == 0 and hint not in errors and "is not on this machine" not in errors


def test_the_command_of_a_job_has_each_key_once(write, tiny, tmp_path):
    keys = ["RNG_SEED", 1, "NUM_GPUS", 4, "NUM_SHARDS", 3, "OUTPUT_DIR", tmp_path / "other", "RNG_SEED", 7]
    _, text, _ = write("--nodes", "2", opts=[*tiny, *keys])
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("srun ")))
    words = words[words.index("train") + 1 : words.index("||")]
    opts = train.parse_args(words).opts
    values = dict(zip(opts[::2], opts[1::2], strict=True))
    assert len(opts) == 2 * len(values)
    expected = {"RNG_SEED": "7", "NUM_GPUS": "0", "NUM_SHARDS": "2", "OUTPUT_DIR": str(tmp_path / "other")}
    assert values == {**values, **expected}


def test_a_job_of_folds(write, tiny, demo, tmp_path, command):
    lists, keys = tmp_path / "lists", ["DATA.PATH_TO_DATA_DIR", tmp_path / "lists", "TRAIN.EVAL_PERIOD", 0]
    assert command("lists", demo / "videos", "--folds", 2, "--val", 0, "--out", lists)[0] == 0
    status, text, errors = write("--folds", opts=[*tiny, *keys])
    assert status == 0, errors
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("srun ")))
    assert words[2:7] == [sys.executable, "-m", "slowfast_uniformer", "train", "--folds"]
    parsed = train.parse_args(words[6 : words.index("||")])
    assert parsed.folds and parsed.opts[-2:] == ["OUTPUT_DIR", str(tmp_path / "run")]
    (lists / "fold_2/test.csv").write_text("up/up_0001.mp4 99\n")
    status, text, errors = write("--folds", opts=[*tiny, *keys])
    assert (status, text) == (2, "") and "fold_2/test.csv, line 1: label 99" in errors


def test_the_python_of_a_job_with_setup_lines(write, tiny, tmp_path, monkeypatch):
    """What the lines activate, else that of `uniformer slurm`."""
    monkeypatch.chdir(tmp_path)
    for folder in ("bin", "venv"):
        (tmp_path / folder).mkdir()
    for path, body in (("bin/srun", 'printf "%s\\n" "$@" >words'), ("bin/python", ""), ("venv/python", "")):
        (tmp_path / path).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / path).chmod(0o755)
    (tmp_path / "activate").write_text(f"export PATH={tmp_path}/venv:$PATH\n")
    for lines, python in (
        (["export X=1"], sys.executable),
        (["export X=1", "source ./activate"], f"{tmp_path}/venv/python"),
    ):
        _, text, _ = write(*(word for line in lines for word in ("--setup", line)))
        environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        assert subprocess.run(["bash"], input=text, text=True, env=environment).returncode == 0
        assert (tmp_path / "words").read_text().splitlines()[1] == python


def test_without_sbatch(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="sbatch is not installed on this machine"):
        submit("")


def test_the_script(write, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, text, _ = write(
        "--nodes",
        "2",
        "--gpus-per-node",
        "a100:4",
        "--cpus-per-task",
        "6",
        "--partition",
        "long",
        "--setup",
        "module load cuda",
        "--setup",
        "source '/my env/activate'",
        "--sbatch=--exclude=n7",
        "--sbatch",
        "constraint=ib",
        opts=[*tiny, "OUTPUT_DIR", "my run's 50%"],
    )
    assert status == 0
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    for line in (
        "nodes=2",
        "ntasks-per-node=4",
        "gpus-per-node=a100:4",
        "cpus-per-task=6",
        "partition=long",
        "requeue",
        "open-mode=append",
        "signal=USR1@300",
        "exclude=n7",
        "constraint=ib",
        "job-name=empty",
    ):
        assert f"#SBATCH --{line}\n" in text
    assert "mem" not in text and "account" not in text
    assert text.index("\nmodule load cuda\nsource '/my env/activate'\n") < text.index("\nsrun ")


@pytest.mark.parametrize("path", sorted((ROOT / "tools/sbatch").glob("*.sbatch")), ids=lambda path: path.stem)
def test_the_examples_are_bash(path):
    assert subprocess.run(["bash", "-n", path]).returncode == 0


STUBS = {
    "srun": 'printf "%s\\n" "$@" >words; touch running; while [ ! -e go ]; do sleep 0.05; done; exit $CODE',
    "squeue": "echo $STATE",
    "scontrol": 'echo "$@" >requeued',
}


@pytest.mark.parametrize(
    ("code", "state", "comes_back"),
    [(75, "RUNNING", True), (75, "COMPLETING", False), (0, "RUNNING", False), (3, "RUNNING", False)],
)
def test_the_script_comes_back_only_if_it_should(write, tiny, tmp_path, monkeypatch, code, state, comes_back):
    monkeypatch.chdir(tmp_path)
    _, text, _ = write("--tasks-per-node", "2", opts=[*tiny, "OUTPUT_DIR", "my run's 50%", "RNG_SEED", 7])
    (tmp_path / "job").write_text(text)
    (tmp_path / "bin").mkdir()
    for name, body in STUBS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "CODE": str(code), "STATE": state, "SLURM_JOB_ID": "17"}
    job = subprocess.Popen(["bash", "job"], env=variables, start_new_session=True)
    try:
        until((tmp_path / "running").exists)
        job.send_signal(signal.SIGTERM)
        job.send_signal(signal.SIGUSR1)
        (tmp_path / "go").touch()
        assert job.wait(timeout=60) == code
    finally:
        kill(job)
    words = (tmp_path / "words").read_text().splitlines()
    out = str(tmp_path / "my run's 50%")
    assert words[:4] == ["--kill-on-bad-exit=1", sys.executable, "-m", "slowfast_uniformer"]
    assert words[4:6] == ["train", "--cfg"]
    assert words[-8:] == ["RNG_SEED", "7", "NUM_SHARDS", "1", "NUM_GPUS", "0", "OUTPUT_DIR", out]
    assert (tmp_path / "requeued").exists() == comes_back
    if comes_back:
        assert (tmp_path / "requeued").read_text() == "requeue 17\n"


# --------------------------------------------------------------------------------------------- a real SLURM
def alive(pid: str) -> str:
    """The name of a process, or nothing if it has ended."""
    try:
        name, state = Path("/proc", pid, "stat").read_text().split("(", 1)[1].rsplit(")", 1)
    except OSError:
        return ""
    return "" if state.split()[0] == "Z" else name


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A SLURM of one node, for this test alone."""
    running = {alive(pid) for pid in os.listdir("/proc") if pid.isdigit()}
    if running & {"slurmctld", "slurmd"} or os.path.exists("/etc/slurm/slurm.conf"):
        pytest.skip("this machine belongs to a SLURM already")
    installed = subprocess.run([*CLUSTER, "install"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"no SLURM to test with: {installed.stderr.strip()[-200:]}")
    home = tmp_path / "slurm"
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(home / "slurm.conf"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    pids = []
    try:
        started = subprocess.run([*CLUSTER, "start", home], capture_output=True, text=True, timeout=60)
        pids = [path.read_text().strip() for path in home.glob("*.pid")]
        assert started.returncode == 0, started.stderr
        yield
    finally:
        subprocess.run([*CLUSTER, "stop", home], timeout=120)
        assert len(pids) == 3 and not any(map(alive, pids))


def say(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_jobs_come_back_and_end_as_if_nothing_had_happened(cluster, write, tiny, tmp_path):
    """One is requeued in mid-epoch, one gets the signal that SLURM sends before the time is up, and one is
    cancelled and must stay away."""
    orders = {"re queued": "scontrol requeue", "warned": "scancel --signal=USR1", "cancelled": "scancel"}
    jobs, waiting = {}, set(orders)
    for name in orders:
        options = [*tiny, *SIGNALLED, "SOLVER.MAX_EPOCH", 20, "OUTPUT_DIR", tmp_path / name]
        status, text, errors = write("--tasks-per-node", "2", "--time", "30", opts=options, show="")
        assert status == 0, errors
        jobs[name] = text.split()[-1]

    def ordered() -> bool:
        for name in [name for name in waiting if steps_done(tmp_path / name) >= 2]:
            say(*orders[name].split(), jobs[name])
            waiting.remove(name)
        return not waiting

    until(ordered, 300)
    out = tmp_path / "undisturbed"
    status, errors = finish(start([*tiny, *pairs(LONG_RUN), "SOLVER.MAX_EPOCH", 20], out, 2), out)  # by torchrun
    assert status == 0, errors
    until(lambda: not say("squeue", "--noheader"), 300)
    for name, job in jobs.items():
        log, state = (tmp_path / name / f"slurm-{job}.out").read_text(), say("scontrol", "show", "job", job)
        assert "stop requested by a signal" in log and "Traceback" not in log
        if name == "cancelled":
            assert "JobState=CANCELLED" in state and "Restarts=0" in state
        else:
            assert "JobState=COMPLETED" in state and "Restarts=1" in state, log
            assert_same_end(out, tmp_path / name)
            starts = map(json.loads, (tmp_path / name / "starts.jsonl").read_text().splitlines())
            assert [row["slurm"].get("SLURM_RESTART_COUNT") for row in starts] == [None, "1"]
