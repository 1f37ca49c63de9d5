"""docs/model_zoo.md is what its script writes, its figures are those published and every line in it works."""

import shlex

import pytest
from conftest import ROOT, load_script
from golden_recipe import golden_json

from slowfast_uniformer.config.load import load_config, split_cfg_arguments

PAGE = (ROOT / "docs/model_zoo.md").read_text()
CELLS = {
    line.split("](../")[1].split(")")[0]: [cell.strip() for cell in line.strip("| ").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| [")
}


def test_the_page_is_up_to_date():
    assert load_script("tools/model_zoo.py").page() == PAGE, "run python tools/model_zoo.py"


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
    assert float(cells[5]) == pytest.approx(gflops, rel=5e-3, abs=0.06)
    assert cells[6] == f"{facts['params'] / 1e6:.1f} M"


def test_every_command_is_understood():
    lines = [line for line in PAGE.splitlines() if line.startswith("    python tools/run_net.py --cfg ")]
    assert len(lines) == 3 * 88 and len(CELLS) == 88
    for words in map(shlex.split, lines):
        files, overrides = split_cfg_arguments(words[3:], [])
        load_config([str(ROOT / file) for file in files], overrides, runs_here=False)
