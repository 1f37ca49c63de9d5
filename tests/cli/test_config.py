"""`uniformer config`: recipes, resolved configs."""

import yaml

from slowfast_uniformer.config.load import difference, load_config, to_dict
from slowfast_uniformer.config.recipes import list_recipes


def test_without_arguments_it_lists_the_recipes(command):
    status, out, errors = command("config")
    assert (status, errors) == (0, "") and out.splitlines() == list(list_recipes())


def test_the_printed_config_is_the_resolved_one(command, tmp_path):
    status, out, _ = command("config", "--cfg", "k400/uniformer_s", "SOLVER.MAX_EPOCH", 7)
    expected = load_config("k400/uniformer_s", ["SOLVER.MAX_EPOCH", 7], runs_here=False)
    assert status == 0 and yaml.safe_load(out) == to_dict(expected)


def test_the_printed_difference_makes_the_same_config(command, tmp_path):
    words = ["SOLVER.MAX_EPOCH", 7, "MODEL.ARGS.any.thing", 3]
    status, out, _ = command("config", "--diff", "--cfg", "k400/uniformer_s", *words)
    expected = load_config("k400/uniformer_s", words, runs_here=False)
    (tmp_path / "diff.yaml").write_text(out)
    assert status == 0 and load_config(str(tmp_path / "diff.yaml"), runs_here=False) == expected
    assert out.count("\n") < 2 * len(difference(expected)) + 40 and "MOMENTUM" not in out


def test_notes_and_errors_go_to_standard_error(command):
    status, out, errors = command("config", "--cfg", "demo/uniformer", "MULTIGRID.SHORT_CYCLE", False)
    assert status == 0 and "note: " in errors and "MULTIGRID.SHORT_CYCLE ignored" in errors and "note: " not in out
    status, out, errors = command("config", "--cfg", "demo/uniformr")
    assert (status, out) == (2, "") and "demo/uniformer" in errors
    assert command("config", "--diff")[0] == 2
