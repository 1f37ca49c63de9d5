"""What an error of training or testing advises leads on: each is followed."""

import re

import pytest
import torch

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine import job
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints


@pytest.fixture
def run(tiny, tmp_path):
    """A function that trains or tests with overrides; a run of one epoch is in tmp_path/run."""

    def call(*overrides: object, function=job.train_run) -> dict:
        return function(load_config(None, [*tiny, "SOLVER.MAX_EPOCH", 1, *map(str, overrides)]))

    call()
    return call


@pytest.fixture
def nine(demo, tmp_path):
    """Overrides of the demo's lists with one more class; its names; those of the same classes under other names."""
    folders = {}
    for kind in ("unnamed", "one more", "renamed"):
        folder = folders[kind] = tmp_path / kind
        folder.mkdir()
        for name in ("train.csv", "val.csv", "test.csv"):
            (folder / name).write_text((demo / name).read_text())
        names = (demo / "classes.txt").read_text().split()
        names = [*names, "none of these"] if kind == "one more" else [f"to the {name}" for name in names]
        if kind != "unnamed":
            (folder / "classes.txt").write_text("\n".join(names) + "\n")
    number = {"unnamed": 9, "one more": 9, "renamed": 8}
    return {
        kind: ["DATA.PATH_TO_DATA_DIR", str(folder), "MODEL.NUM_CLASSES", number[kind]]
        for kind, folder in folders.items()
    }


def advised(error: pytest.ExceptionInfo, *parts: str) -> str:
    """The message, which has these parts on one line."""
    message = str(error.value)
    assert all(part in message for part in parts) and "\n" not in message, message
    return message


@pytest.mark.parametrize("kind", ["unnamed", "one more", "renamed"])
@pytest.mark.parametrize("aside", [True, False])
def test_other_classes_in_the_folder_of_a_run(run, nine, tmp_path, kind, aside):
    """The advice is MODEL.INIT_HEAD new only with what makes the run read it."""
    out = tmp_path / "run"
    with pytest.raises(UserError) as error:
        run(*nine[kind])
    message = advised(error, "TRAIN.AUTO_RESUME False", "another OUTPUT_DIR", "MODEL.INIT_HEAD new")
    (weights,) = re.findall(r"MODEL.INIT_FROM (\S+) then", message)
    assert weights == checkpoints.latest(str(out))
    anew = ["TRAIN.AUTO_RESUME", False] if aside else ["OUTPUT_DIR", tmp_path / "other"]
    result = run(*nine[kind], *anew, "MODEL.INIT_FROM", weights, "MODEL.INIT_HEAD", "new")
    head = checkpoints.load_checkpoint(result["checkpoint"])["model_state"]["head.weight"]
    assert len(head) == nine[kind][-1]
    assert (out / "before_1" / "checkpoints" / "epoch_00001.pyth").exists() == aside
    tested = run(*nine[kind], *anew, function=job.test_run)
    assert tested["checkpoint"] == checkpoints.latest(result["output_dir"])
    run(*nine[kind], *(anew if not aside else []))  # and continues


def test_another_model_or_optimizer_in_the_folder_of_a_run(run, tmp_path):
    with pytest.raises(UserError) as error:
        run("UNIFORMER.DEPTH", [1, 1, 1, 2])
    message = advised(error, "Set MODEL.MODEL_NAME and the keys of its section", "TRAIN.AUTO_RESUME False")
    assert "MODEL.INIT_FROM" not in message, "its weights do not fit"
    run("UNIFORMER.DEPTH", [1, 1, 1, 2], "TRAIN.AUTO_RESUME", False)
    with pytest.raises(UserError) as error:
        run("UNIFORMER.DEPTH", [1, 1, 1, 2], "SOLVER.OPTIMIZING_METHOD", "sgd")
    message = advised(error, "its optimizer does not match", "TRAIN.AUTO_RESUME False")
    (weights,) = re.findall(r"MODEL.INIT_FROM (\S+) then", message)
    sgd = ["UNIFORMER.DEPTH", [1, 1, 1, 2], "SOLVER.OPTIMIZING_METHOD", "sgd", "MODEL.INIT_FROM", weights]
    run(*sgd, "TRAIN.AUTO_RESUME", False)
    assert sorted(path.name for path in (tmp_path / "run").glob("before_*")) == ["before_1", "before_2"]


def test_a_given_checkpoint_that_does_not_fit(run, nine, tmp_path):
    path, other = checkpoints.latest(str(tmp_path / "run")), ["OUTPUT_DIR", tmp_path / "other"]
    with pytest.raises(UserError) as error:
        run(*nine["unnamed"], *other, "TRAIN.CHECKPOINT_FILE_PATH", path)
    advised(error, 'set TRAIN.CHECKPOINT_FILE_PATH ""; MODEL.INIT_FROM', "MODEL.INIT_HEAD new")
    run(*nine["unnamed"], *other, "TRAIN.CHECKPOINT_FILE_PATH", "", "MODEL.INIT_FROM", path, "MODEL.INIT_HEAD", "new")

    weights = tmp_path / "weights.pyth"
    torch.save({"model_state": checkpoints.load_checkpoint(path)["model_state"]}, weights)
    other = ["OUTPUT_DIR", tmp_path / "third"]
    with pytest.raises(UserError) as error:
        run(*other, "TRAIN.CHECKPOINT_FILE_PATH", weights)
    advised(error, "set MODEL.INIT_FROM to it", 'TRAIN.CHECKPOINT_FILE_PATH ""')
    run(*other, "TRAIN.CHECKPOINT_FILE_PATH", "", "MODEL.INIT_FROM", weights)

    state = {"epoch": 3, "optimizer_state": {"state": {}, "param_groups": []}, "cfg": "NUM_GPUS: 8"}  # SlowFast's
    torch.save(torch.load(weights) | state, weights)
    other = ["OUTPUT_DIR", tmp_path / "fourth"]
    with pytest.raises(UserError) as error:
        run(*other, "TRAIN.CHECKPOINT_FILE_PATH", weights)
    advised(error, 'set TRAIN.CHECKPOINT_FILE_PATH ""', f"MODEL.INIT_FROM {weights} then takes its weights")
    run(*other, "TRAIN.CHECKPOINT_FILE_PATH", "", "MODEL.INIT_FROM", weights)


def test_a_folder_stands_for_its_run(run, tmp_path, caplog):
    """For all keys that name weights or a checkpoint."""
    caplog.set_level("INFO")
    run("SOLVER.MAX_EPOCH", 2, "TEST.TEST_BEST", True)
    folder, paths = tmp_path / "run", {name: f"{tmp_path}/run/checkpoints/{name}.pyth" for name in ("best", "latest")}
    paths["latest"] = checkpoints.latest(str(folder))
    run("OUTPUT_DIR", tmp_path / "a", "MODEL.INIT_FROM", folder)
    assert f"starting from MODEL.INIT_FROM {paths['best']}" in caplog.text
    run("OUTPUT_DIR", tmp_path / "b", "SOLVER.MAX_EPOCH", 3, "TRAIN.CHECKPOINT_FILE_PATH", folder)
    assert f"continuing {paths['latest']} after epoch 2 (TRAIN.CHECKPOINT_FILE_PATH)" in caplog.text
    tested = run("OUTPUT_DIR", tmp_path / "c", "TEST.CHECKPOINT_FILE_PATH", folder, function=job.test_run)
    assert tested["checkpoint"] == paths["best"]
    tested = run("OUTPUT_DIR", tmp_path / "d", "MODEL.INIT_FROM", folder, function=job.test_run)
    assert tested["num_videos"] == 9


def test_a_test_of_other_classes(run, nine, tmp_path):
    path = checkpoints.latest(str(tmp_path / "run"))
    with pytest.raises(UserError) as error:
        run(*nine["unnamed"], "TEST.CHECKPOINT_FILE_PATH", path, function=job.test_run)
    (weights, given) = re.findall(r"MODEL.INIT_FROM (\S+) TEST.CHECKPOINT_FILE_PATH (\S+)", advised(error))[0]
    run(*nine["unnamed"][:-1], 8, function=job.test_run)
    options = ["MODEL.INIT_FROM", weights, "TEST.CHECKPOINT_FILE_PATH", given]
    run(*nine["unnamed"], *options, "MODEL.INIT_HEAD", "map:[0,1,2,3,4,5,6,7,7]", function=job.test_run)
    with pytest.raises(UserError) as error:
        run(*nine["renamed"], function=job.test_run)
    advised(error, "MODEL.INIT_HEAD map:FILE")
    rows = f"map:{nine['renamed'][1]}/rows.json"
    with open(rows.removeprefix("map:"), "w") as file:
        file.write("[0, 1, 2, 3, 4, 5, 6, 7]")
    run(*nine["renamed"], *options, "MODEL.INIT_HEAD", rows, function=job.test_run)


def test_nothing_to_test_and_weights_that_are_not_there(run, tmp_path):
    empty = ["OUTPUT_DIR", tmp_path / "empty"]
    with pytest.raises(UserError, match="nothing to test: .*or train first"):
        run(*empty, function=job.test_run)
    run(*empty)
    run(*empty, function=job.test_run)
    with pytest.raises(UserError, match='no such file .*from random weights, set MODEL.INIT_FROM ""'):
        run("OUTPUT_DIR", tmp_path / "new", "MODEL.INIT_FROM", "gone.pyth")
    run("OUTPUT_DIR", tmp_path / "new", "MODEL.INIT_FROM", "")


def test_a_damaged_checkpoint(run, tmp_path, caplog):
    """One that is named is an error; in OUTPUT_DIR the one before is taken once it is removed."""
    run("SOLVER.MAX_EPOCH", 2)
    damaged = checkpoints.latest(str(tmp_path / "run"))
    torch.save({"model_state": {}}, damaged)  # whole, but no checkpoint
    with pytest.raises(UserError, match="not a training checkpoint of this program"):
        run("SOLVER.MAX_EPOCH", 3)
    with open(damaged, "w") as file:
        file.write("cut")
    with pytest.raises(UserError, match="choose another one of its run"):
        run("OUTPUT_DIR", tmp_path / "other", "TRAIN.CHECKPOINT_FILE_PATH", damaged)
    caplog.set_level("INFO")
    run("SOLVER.MAX_EPOCH", 3)
    assert f"{damaged} is damaged" in caplog.text and "epoch_00001.pyth after epoch 1" in caplog.text
