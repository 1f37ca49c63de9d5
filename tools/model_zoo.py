"""Write the tables in docs/model_zoo.md, below its mark: published results, cost and commands of every recipe.

python tools/model_zoo.py

Accuracies and checkpoint names are in docs/model_zoo.json; all other columns follow from the YAMLs in configs/ and the
models that they build.
"""

import json
from itertools import groupby
from pathlib import Path

from fvcore.common.config import CfgNode

from slowfast_uniformer import list_recipes, load_config
from slowfast_uniformer.analysis.model_cost import cost
from slowfast_uniformer.config.keys import flatten

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/model_zoo.md"
MARK = "<!-- from here on written by tools/model_zoo.py -->\n"
TITLES = {
    **{"k400": "Kinetics-400", "k600": "Kinetics-600", "k700": "Kinetics-700", "k710": "Kinetics-710"},
    **{"mit": "Moments in Time", "sthv1": "Something-Something V1", "sthv2": "Something-Something V2"},
    **{"anet": "ActivityNet", "hacs": "HACS", "ucf101": "UCF101", "hmdb51": "HMDB51"},
}
COLUMNS = "| recipe | starts from | views | top-1 | top-5 | GFLOPs | parameters | released checkpoint |"


def recipes() -> dict[str, CfgNode]:
    """Return the config of every released recipe by its name, such as "k400/uniformer_s"."""
    configs = {name: load_config(path, runs_here=False) for name, path in list_recipes().items()}
    return {name: cfg for name, cfg in configs.items() if cfg.RECIPE and not name.endswith("_1gpu")}


def architecture(cfg: CfgNode) -> str:
    """Return what the cost of a model depends on: equal for equal costs."""
    sizes = {key: value for key, value in flatten(cfg) if key.startswith("UNIFORMER") and "DROP" not in key}
    return str((cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, sizes))


def row(name: str, cfg: CfgNode, fact: dict, costs: dict[str, tuple[int, float]]) -> str:
    """Return a recipe's line in its table; `costs` holds those of architectures seen before."""
    key = architecture(cfg)
    if key not in costs:
        costs[key] = cost(cfg)
    parameters, gflops = costs[key]
    views = f"{cfg.DATA.NUM_FRAMES}x{cfg.TEST.NUM_SPATIAL_CROPS}x{cfg.TEST.NUM_ENSEMBLE_VIEWS}"
    figures = [fact["top1"] or "-", fact["top5"] or "-", f"{gflops:.1f}", f"{parameters / 1e6:.1f} M"]
    link = f"[{Path(name).name}](../configs/{name}.yaml)"
    return f"| {' | '.join(map(str, [link, cfg.MODEL.INIT_FROM, views, *figures, fact['checkpoint'] or '-']))} |"


def commands(name: str, fact: dict) -> str:
    """Return the commands that train, test and fine-tune a recipe's model."""
    run = f"python tools/run_net.py --cfg configs/{name}.yaml"
    weights = fact["checkpoint"] or f"{Path(name).name}.pth"
    tuning = f"MODEL.INIT_FROM {weights} MODEL.NUM_CLASSES 12 DATA.PATH_TO_DATA_DIR mine DATA.PATH_PREFIX mine"
    return f"""    {run}
    {run} TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH {weights}
    {run} configs/custom/own_videos.yaml {tuning}
"""


def tables() -> str:
    """Return what the page has below its mark."""
    facts, costs, parts = json.loads((ROOT / "docs/model_zoo.json").read_text()), {}, []
    for dataset, group in groupby(recipes().items(), lambda item: item[0].split("/")[0]):
        items = [(name, cfg, facts[cfg.RECIPE]) for name, cfg in group]
        parts.append(f"\n## {TITLES[dataset]}\n\n{COLUMNS}\n{'|---' * 8}|\n")
        parts.extend(f"{row(*item, costs)}\n" for item in items)
        parts.append("\nTrain; test the released weights; fine-tune them on your own videos:\n")
        parts.extend(f"\n{commands(name, fact)}" for name, _, fact in items)
    return "".join(parts)


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(head + MARK + tables(), encoding="utf-8")
