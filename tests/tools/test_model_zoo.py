"""docs/model_zoo.md is what its script generates, and its figures are those published."""

import pytest
from conftest import ROOT, load_script
from golden_recipe import golden_json

from slowfast_uniformer.config.load import load_config

REMEDY = "run python tools/model_zoo.py"
model_zoo = load_script("tools/model_zoo.py")
PAGE = (ROOT / "docs/model_zoo.md").read_text()
CELLS = {
    line.split("](../")[1].split(")")[0]: [cell.strip() for cell in line.strip("| ").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| [")
}


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert PAGE.count(model_zoo.MARK) == 1
    assert model_zoo.tables() == PAGE.partition(model_zoo.MARK)[2], REMEDY


def test_rows_are_up_to_date_but_for_costs(monkeypatch):
    """Everything on the page that needs no model; the costs are read from the page itself."""
    monkeypatch.setattr(model_zoo, "architecture", lambda cfg: cfg.RECIPE)
    for name, cfg in model_zoo.recipes().items():
        gflops, parameters = CELLS[f"configs/{name}.yaml"][4:6]
        known = {cfg.RECIPE: (float(parameters.removesuffix(" M")) * 1e6, float(gflops))}
        assert f"\n{model_zoo.row(name, cfg, known)}" in PAGE, REMEDY
    assert len(CELLS) == 88 and PAGE.endswith(model_zoo.other_tables()), REMEDY


@pytest.mark.parametrize("name", ["k400/uniformer_s", "k400/uniformer_xxs_4x128", "k400/uniformerv2_b16_8x224"])
def test_the_costs_of_small_models_are_up_to_date(name):
    cfg = load_config(name, runs_here=False)
    assert f"\n{model_zoo.row(name, cfg, {})}" in PAGE, REMEDY


def test_models_of_equal_cost_are_counted_once():
    configs = model_zoo.recipes()
    base = model_zoo.architecture(configs["k400/uniformer_s"])
    assert model_zoo.architecture(configs["k400/uniformer_s_16x8"]) == base  # another sampling rate
    for other in ("k400/uniformer_s_8x8", "k600/uniformer_s", "k400/uniformer_b", "hmdb51/uniformer_s"):
        assert model_zoo.architecture(configs[other]) != base
    assert len(set(map(model_zoo.architecture, configs.values()))) < 65


@pytest.mark.parametrize(
    "path, golden, frames, size",
    [
        ("k400/uniformer_s", "uniformer_s", 16, 224),
        ("k400/uniformer_b", "uniformer_b", 16, 224),
        ("k400/uniformerv2_b16_8x224", "uniformerv2_b16_k_f8", 8, 224),
        ("k400/uniformerv2_l14_8x224_k710", "uniformerv2_l14_k_f8", 8, 224),
        ("k400/uniformerv2_l14_8x336_frozen", "uniformerv2_l14_336_k_f8_frozen", 8, 336),
        ("k400/uniformerv2_l14_64x336_k710", "uniformerv2_l14_336_k_f64_ckpt24", 64, 336),
        ("sthv2/uniformerv2_b16_32x224", "uniformerv2_b16_sth_f32", 32, 224),
        ("sthv1/uniformerv2_l14_16x224", "uniformerv2_l14_sth_f16", 16, 224),
        ("anet/uniformerv2_l14_16x224", "uniformerv2_l14_anet_hacs_f16", 16, 224),
    ],
)
def test_costs_are_those_of_the_releases(path, golden, frames, size):
    facts = golden_json("keys", golden)
    (gflops,) = [x["gflops"] for x in facts["flops"] if (x["frames"], x["size"]) == (frames, size)]
    cells = CELLS[f"configs/{path}.yaml"]
    assert float(cells[4]) == pytest.approx(gflops, rel=5e-3, abs=0.06)
    assert cells[5] == f"{facts['params'] / 1e6:.1f} M"


def test_what_is_known_of_a_source_is_said():
    small, gone = CELLS["configs/k400/uniformer_s.yaml"], CELLS["configs/k710/uniformerv2_l14_8x336_frozen.yaml"]
    assert small[6:8] == ["uniformer_small_k400_16x4", "k400_uniformer"]
    assert small[8].startswith("[Google Drive](") and small[8].endswith(".pth) (fails since 2026-06)")
    assert gone[8].startswith("[release](") and gone[8].endswith("(gone since 2024-08)")
    assert "(not certain)" in CELLS["configs/k400/uniformer_b_16x8.yaml"][8]
    assert CELLS["configs/k400/uniformer_s_32x4.yaml"][6:] == ["-", "-", "-"]
    assert CELLS["configs/k600/uniformerv2_l14_64x336_k710.yaml"][6] == "k600_k710_uniformerv2_l14_64x336"
