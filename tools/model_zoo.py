"""Write docs/model_zoo.md: what was published for each recipe in configs/, and what its model costs.

python tools/model_zoo.py

Accuracies and names of checkpoints are those of docs/model_zoo.json; everything else is taken from the YAMLs
and from the models that they build.
"""

import json
from itertools import groupby
from pathlib import Path

from fvcore.common.config import CfgNode

from slowfast_uniformer.analysis.model_cost import cost
from slowfast_uniformer.config.load import load_config

ROOT = Path(__file__).resolve().parents[1]
TITLES = {
    **{"k400": "Kinetics-400", "k600": "Kinetics-600", "k700": "Kinetics-700", "k710": "Kinetics-710"},
    **{"mit": "Moments in Time", "sthv1": "Something-Something V1", "sthv2": "Something-Something V2"},
    **{"anet": "ActivityNet", "hacs": "HACS", "ucf101": "UCF101", "hmdb51": "HMDB51"},
}
HEAD = """# Model zoo

Made by `python tools/model_zoo.py` from the YAMLs in configs/. Top-1 and top-5 are the published figures of
the released checkpoints (the model zoos of UniFormer and UniFormerV2; top-5 where mmaction2's pages give it),
in views of frames x crops x clips as there; a dash is what was not published (the light models were, but as
links without a file name: theirs in the lines below is to be replaced). Nothing here was trained again.
GFLOPs are of one view (a multiply-add counts once) and, as the parameters, counted by `tools/model_info.py`.

Put released weights into the folder that `SLOWFAST_UNIFORMER_WEIGHTS` names; [recipes.md](recipes.md) says
where data are looked for.
"""
COLUMNS = "| recipe | starts from | views | top-1 | top-5 | GFLOPs | parameters | released checkpoint |"


def recipes() -> dict[str, CfgNode]:
    """Path from the root, and config, of every YAML with a RECIPE."""
    paths = sorted((ROOT / "configs").glob("[!_]*/*.yaml"))
    configs = {str(path.relative_to(ROOT)): load_config(str(path), runs_here=False) for path in paths}
    return {path: cfg for path, cfg in configs.items() if cfg.RECIPE and not path.endswith("_1gpu.yaml")}


def row(path: str, cfg: CfgNode, fact: dict, costs: dict) -> str:
    """The recipe's line in its table. `costs` keeps what is alike but for the classes."""
    arguments = (
        str(cfg.UNIFORMER),
        str(cfg.UNIFORMERV2),
        cfg.MODEL.MODEL_NAME,
        cfg.DATA.NUM_FRAMES,
        cfg.DATA.TEST_CROP_SIZE,
        cfg.MODEL.NUM_CLASSES,
    )
    if arguments not in costs:
        costs[arguments] = cost(cfg)
    parameters, gflops = costs[arguments]
    views = f"{cfg.DATA.NUM_FRAMES}x{cfg.TEST.NUM_SPATIAL_CROPS}x{cfg.TEST.NUM_ENSEMBLE_VIEWS}"
    figures = [fact["top1"] or "-", fact["top5"] or "-", f"{gflops:.1f}", f"{parameters / 1e6:.1f} M"]
    cells = [f"[{Path(path).stem}](../{path})", cfg.MODEL.INIT_FROM, views, *figures, fact["checkpoint"] or "-"]
    return f"| {' | '.join(map(str, cells))} |"


def commands(path: str, fact: dict) -> str:
    """The lines that train, test and fine-tune the recipe's model."""
    run, weights = f"python tools/run_net.py --cfg {path}", fact["checkpoint"] or f"{Path(path).stem}.pth"
    tuning = f"MODEL.INIT_FROM {weights} MODEL.NUM_CLASSES 12 DATA.PATH_TO_DATA_DIR mine DATA.PATH_PREFIX mine"
    return f"""    {run}
    {run} TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {weights}
    {run} configs/custom/own_videos.yaml {tuning}
"""


def page() -> str:
    """The text of docs/model_zoo.md."""
    facts, costs, parts = json.loads((ROOT / "docs/model_zoo.json").read_text()), {}, [HEAD]
    for dataset, group in groupby(recipes().items(), lambda item: item[0].split("/")[1]):
        items = [(path, cfg, facts[cfg.RECIPE]) for path, cfg in group]
        parts.append(f"\n## {TITLES[dataset]}\n\n{COLUMNS}\n{'|---' * 8}|\n")
        parts.extend(f"{row(*item, costs)}\n" for item in items)
        parts.append("\nTrain; test the released weights; fine-tune them on your own videos:\n")
        parts.extend(f"\n{commands(path, fact)}" for path, _, fact in items)
    return "".join(parts)


if __name__ == "__main__":
    (ROOT / "docs/model_zoo.md").write_text(page(), encoding="utf-8")
