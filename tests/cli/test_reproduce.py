"""`uniformer reproduce` and `uniformer test --released`: which recipes words mean, and where results go."""

import pytest
from conftest import ROOT

from slowfast_uniformer.cli import reproduce, test
from slowfast_uniformer.config.recipes import list_recipes
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.weights.registry import released_checkpoint


def test_names_files_and_patterns(monkeypatch):
    monkeypatch.chdir(ROOT / "configs")
    pattern = reproduce.chosen(["k400/*"])
    assert len(pattern) == 26 and not [name for name in pattern if name.endswith("_1gpu") or "ptv" in name]
    assert reproduce.chosen(sorted(map(str, (ROOT / "configs/k400").iterdir()))) == pattern, "as a shell expands it"
    assert list(reproduce.chosen(["k400/uniformer_s_1gpu"])) == ["k400/uniformer_s_1gpu"]
    assert list(reproduce.chosen(["sthv2/uniformer_s_f16_k400", "k400/uniformer_s.yaml"])) == [
        "sthv2/uniformer_s_f16_k400",
        "k400/uniformer_s",
    ]
    everything = [name for name in list_recipes() if released_checkpoint(name) and not name.endswith("_1gpu")]
    assert sorted(reproduce.chosen(["*"])) == sorted(everything) and len(everything) == 88


def test_words_that_are_no_recipes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k400").mkdir()
    (tmp_path / "k400/videos").mkdir()
    (tmp_path / "k400/test.csv").touch()
    for words, message in (
        (["demo/uniformer"], "no released checkpoint belongs to it; `uniformer weights list`"),
        (["k400/uniformer_z"], "did you mean k400/uniformer_"),
        (["none/*"], "none/\\*: no recipe with a released checkpoint"),
        (["k400/test.csv", "k400/videos"], "Put a pattern in quotes"),  # what a shell makes of k400/* beside the data
        (["k400/test.csv", "demo/uniformer"], "Put a pattern in quotes"),
    ):
        with pytest.raises(UserError, match=message):
            reproduce.chosen(words)


def test_words_and_pairs():
    args = reproduce.parse_args(["k400/*", "mit/*", "DATA.PATH_PREFIX", "a/b", "NUM_GPUS", "1"])
    assert args.recipes == ["k400/*", "mit/*"] and args.opts == ["DATA.PATH_PREFIX", "a/b", "NUM_GPUS", "1"]


def test_every_recipe_has_its_folder():
    recipes = reproduce.chosen(["ucf101/*", "hmdb51/*"])
    for opts, root in (([], "runs/reproduce"), (["OUTPUT_DIR", "mine"], "mine")):
        configs, _ = reproduce.configs(recipes, ["NUM_GPUS", 0, *opts])
        assert {name: cfg.OUTPUT_DIR for name, cfg in configs.items()} == {name: f"{root}/{name}" for name in recipes}
        assert all(cfg.TEST.CHECKPOINT_FILE_PATH == recipes[name].name for name, cfg in configs.items())


def test_it_is_one_process_that_starts_the_others(monkeypatch):
    configs, _ = reproduce.configs(reproduce.chosen(["ucf101/*"]), ["NUM_GPUS", 0])
    (cfg,) = configs.values()
    reproduce.check_alone(cfg)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="run it without torchrun"):
        reproduce.check_alone(cfg)


def test_where_a_released_checkpoint_is_tested(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("OUTPUT_DIR: elsewhere\n")
    weights = ["TEST.CHECKPOINT_FILE_PATH", "uniformer_small_k400_16x4"]
    assert test.released_overrides(["k400/uniformer_s"], []) == [
        *weights,
        "OUTPUT_DIR",
        "runs/reproduce/k400/uniformer_s",
    ]
    given = test.released_overrides(["k400/uniformer_s"], ["OUTPUT_DIR", "runs/k400/uniformer_s"])
    assert given == test.released_overrides(["k400/uniformer_s", str(own)], []) == weights
    with pytest.raises(UserError, match="own.yaml: no released checkpoint belongs to it"):
        test.released_overrides([str(own)], [])


@pytest.mark.parametrize("option", [["--checkpoint", "x.pth"], ["--small"]])
def test_released_names_the_weights(command, option):
    status, _, errors = command("test", "--cfg", "k400/uniformer_s", "--released", *option)
    assert status == 2 and f"--released cannot be combined with {option[0]}" in errors
