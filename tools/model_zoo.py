"""Write the tables in docs/model_zoo.md, below its mark: published results, cost and weights of every recipe.

python tools/model_zoo.py

Accuracies, names and sources are those of the package's registry (weights/registry.json); views and costs follow from
the YAMLs in configs/ and the models that they build.
"""

from itertools import groupby
from pathlib import Path

from fvcore.common.config import CfgNode
from huggingface_hub import hf_hub_url

from slowfast_uniformer import list_recipes, load_config
from slowfast_uniformer.analysis.model_cost import cost
from slowfast_uniformer.config.keys import flatten
from slowfast_uniformer.weights.download import hub_parts
from slowfast_uniformer.weights.registry import Checkpoint, Source, checkpoints, released_checkpoint

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/model_zoo.md"
MARK = "<!-- from here on written by tools/model_zoo.py -->\n"
TITLES = {
    **{"k400": "Kinetics-400", "k600": "Kinetics-600", "k700": "Kinetics-700", "k710": "Kinetics-710"},
    **{"mit": "Moments in Time", "sthv1": "Something-Something V1", "sthv2": "Something-Something V2"},
    **{"anet": "ActivityNet", "hacs": "HACS", "ucf101": "UCF101", "hmdb51": "HMDB51"},
}
COLUMNS = "| recipe | views | top-1 | top-5 | GFLOPs | parameters | name | class order | sources |"
OTHERS = "| name | recipe | top-1 | top-5 | class order | sources |"
PLACES = {"hub": "Hugging Face", "gdrive": "Google Drive"}
ORIGINS = {"mmaction2": "mmaction2", "keras": "Keras", "openai": "OpenAI"}


def recipes() -> dict[str, CfgNode]:
    """Return the config of every released recipe by its name, such as "k400/uniformer_s"."""
    configs = {name: load_config(path, runs_here=False) for name, path in list_recipes().items()}
    return {name: cfg for name, cfg in configs.items() if cfg.RECIPE and not name.endswith("_1gpu")}


def architecture(cfg: CfgNode) -> str:
    """Return what the cost of a model depends on: equal for equal costs."""
    sizes = {key: value for key, value in flatten(cfg) if key.startswith("UNIFORMER") and "DROP" not in key}
    return str((cfg.MODEL.MODEL_NAME, cfg.MODEL.NUM_CLASSES, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, sizes))


def line(*cells: object) -> str:
    """Return a row of a table; what is not known or not there is a dash."""
    return f"| {' | '.join(str(cell) if cell else '-' for cell in cells)} |\n"


def row(name: str, cfg: CfgNode, costs: dict[str, tuple[int, float]]) -> str:
    """Return a recipe's line in its table; `costs` holds those of architectures seen before."""
    key, checkpoint = architecture(cfg), released_checkpoint(name)
    if key not in costs:
        costs[key] = cost(cfg)
    parameters, gflops = costs[key]
    return line(
        f"[{Path(name).name}](../configs/{name}.yaml)",
        f"{cfg.DATA.NUM_FRAMES}x{cfg.TEST.NUM_SPATIAL_CROPS}x{cfg.TEST.NUM_ENSEMBLE_VIEWS}",
        checkpoint.top1,
        checkpoint.top5,
        f"{gflops:.1f}",
        f"{parameters / 1e6:.1f} M",
        checkpoint.name if checkpoint.sources else "",
        classes(checkpoint) if checkpoint.sources else "",
        sources(checkpoint),
    )


def classes(checkpoint: Checkpoint) -> str:
    """Return the order of a checkpoint's classes, with a mark where it is not certain."""
    return checkpoint.classes and checkpoint.classes + ("" if checkpoint.classes_certain else " ?")


def sources(checkpoint: Checkpoint) -> str:
    """Return links to all sources of a checkpoint in the order in which they are tried."""
    return ", ".join(map(source, checkpoint.sources))


def source(place: Source) -> str:
    """Return a link to a source, and what is known against it."""
    address = place.address
    if place.kind == "hub":
        repo, revision, file = hub_parts(address)
        address = hf_hub_url(repo, file, revision=revision)
    doubts = ["not certain"] if not place.certain else []
    doubts += [f"fails since {place.failing_since}"] if place.failing_since else []
    doubts += [f"gone since {place.gone_since}"] if place.gone_since else []
    name = ORIGINS.get(place.origin) or PLACES.get(place.kind, "release")
    return f"[{name}]({address})" + (f" ({', '.join(doubts)})" if doubts else "")


def other_tables() -> str:
    """Return the tables of checkpoints that are no recipe's release."""
    initial, again = f"\n## Initial weights\n\n{OTHERS}\n{'|---' * 6}|\n", ""
    for checkpoint in checkpoints().values():
        figures = checkpoint.top1, checkpoint.top5, classes(checkpoint), sources(checkpoint)
        if not checkpoint.recipes:
            initial += line(checkpoint.name, checkpoint.note, *figures)
        elif not checkpoint.released:
            again += line(checkpoint.name, checkpoint.recipes[0], *figures)
    return f"{initial}\n## Trained again by mmaction2\n\n{OTHERS}\n{'|---' * 6}|\n{again}"


def tables() -> str:
    """Return what the page has below its mark."""
    costs, parts = {}, []
    for dataset, group in groupby(recipes().items(), lambda item: item[0].split("/")[0]):
        parts.append(f"\n## {TITLES[dataset]}\n\n{COLUMNS}\n{'|---' * 9}|\n")
        parts.extend(row(name, cfg, costs) for name, cfg in group)
    return "".join(parts) + other_tables()


if __name__ == "__main__":
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(head + MARK + tables(), encoding="utf-8")
