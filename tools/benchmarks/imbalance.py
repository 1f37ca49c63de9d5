"""Compare what helps against unbalanced classes: the demo's motions, some with many training videos and some with few.

    python tools/benchmarks/imbalance.py [--out data/imbalance] [--fewest 10] [--most 200] [--test 25] [--seeds 3]
        [--epochs 6] [--only none balanced ...] [--json] [--opts KEY VALUE ...]

The numbers of training videos of the eight classes are a geometric series; the test list is balanced. Each seed has
videos, initial weights and an order of classes of its own, so that no class is always the rare one. Every method trains
on the same videos for as many steps from the same weights. The table has mean and standard error over the seeds, and
those of the difference to `none` on the same seed. It runs on one core of the CPU: a small model on videos of 16 frames
of 40 pixels (--opts changes that). Results are kept in --out, and what is there is not trained again.
"""

import argparse
import logging
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from results import to_json
from slowfast_uniformer.datasets.make_demo import CLASSES, Job, render_job, write_lists
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall

import slowfast_uniformer
from slowfast_uniformer.cli.common import positive
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.runs.files import append_json_lines, read_json_lines
from slowfast_uniformer.runs.predictions import read_predictions

METHODS = {
    "none": (),
    "balanced": ("DATA.SAMPLER", "balanced"),
    "sqrt": ("DATA.SAMPLER", "sqrt"),
    "inverse": ("SOLVER.CLASS_WEIGHTS", "inverse"),
    "inv_sqrt": ("SOLVER.CLASS_WEIGHTS", "inv_sqrt"),
    "effective": ("SOLVER.CLASS_WEIGHTS", "effective", "SOLVER.CLASS_WEIGHT_BETA", 0.99),
    "focal": ("SOLVER.FOCAL_GAMMA", 2.0),
}
FIGURES = {"macro_f1": "macro-F1", "rare": "recall, 3 rarest", "frequent": "recall, 3 most frequent", "top1": "top-1"}
SIZE, FRAMES = 40, 16  # of a video
MODEL = {
    "DATA.NUM_FRAMES": 4,
    "DATA.TRAIN_CROP_SIZE": SIZE,
    "DATA.TEST_CROP_SIZE": SIZE,
    "DATA.TRAIN_JITTER_SCALES": [SIZE, SIZE + 4],
    "UNIFORMER.EMBED_DIM": [16, 32, 64, 128],
    "UNIFORMER.DEPTH": [1, 1, 1, 1],
    "UNIFORMER.HEAD_DIM": 16,
    "TRAIN.BATCH_SIZE": 8,
    "SOLVER.BASE_LR": 2e-3,
}


def render(folder: Path, counts: list[int], test: int, seed: int) -> None:
    """Write the videos and lists of a seed, `counts` training videos by class, unless they are there."""
    if (folder / "sth").is_dir():
        return
    train: list[Job] = []
    held_out: list[Job] = []
    for label, motion in enumerate(CLASSES):
        (folder / "videos" / motion).mkdir(parents=True, exist_ok=True)
        for number in range(counts[label] + test):
            jobs, split = (train, 0) if number < counts[label] else (held_out, 1)
            jobs.append(Job(f"{motion}_{number:04d}", motion, (seed, split, label, number), as_jpeg=False))
    for job in (*train, *held_out):
        render_job(job, folder, SIZE, FRAMES)
    write_lists(folder, train, held_out, FRAMES)


def train_and_test(folder: Path, name: str, seed: int, args: argparse.Namespace) -> list[list[int]]:
    """The true and the predicted label of each test video."""
    out = folder / name
    options = ["DATA.PATH_TO_DATA_DIR", folder, "DATA.PATH_PREFIX", folder / "videos", "OUTPUT_DIR", out]
    options += ["RNG_SEED", seed + 1, "SOLVER.MAX_EPOCH", args.epochs, "TRAIN.EVAL_PERIOD", 0, "NUM_GPUS", 0]
    options += ["TEST.NUM_ENSEMBLE_VIEWS", 1, "DATA_LOADER.NUM_WORKERS", 0, "TENSORBOARD.ENABLE", False]
    options += ["TRAIN.CHECKPOINT_PERIOD", args.epochs, "LOG_PERIOD", 100]
    small = [item for pair in MODEL.items() for item in pair]
    cfg = load_config("demo/uniformer", [*map(str, options), *small, *args.opts, *METHODS[name]])
    with redirect_stdout(sys.stderr):
        slowfast_uniformer.train(cfg)
        slowfast_uniformer.test(cfg)
    predictions, _ = read_predictions(str(out / "predictions.csv"))
    return [[p.labels[0] for p in predictions], [p.prediction for p in predictions]]


def scores(truth: list[int], predicted: list[int], counts: list[int]) -> dict[str, float]:
    """The figures of a run in per cent."""
    given, classes = (torch.tensor(predicted), torch.tensor(truth)), len(counts)
    recall = 100 * multiclass_recall(*given, classes, average="none")
    rare_first = np.argsort(counts, kind="stable")
    return {
        "macro_f1": 100 * multiclass_f1_score(*given, classes, average="macro").item(),
        "rare": recall[rare_first[:3]].mean().item(),
        "frequent": recall[rare_first[-3:]].mean().item(),
        "top1": 100 * (given[0] == given[1]).float().mean().item(),
    }


def with_error(values: list[float]) -> tuple[float, float | None]:
    """The mean, and its standard error where there are several values."""
    return mean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def summary(runs: list[dict]) -> dict[str, dict]:
    """Of each method the figures with errors, and the difference of macro-F1 to none on the same seeds."""
    found = {}
    for name in METHODS:
        own = {run["seed"]: run for run in runs if run["method"] == name}
        if not own:
            continue
        found[name] = {key: with_error([run[key] for run in own.values()]) for key in FIGURES}
        base = {run["seed"]: run["macro_f1"] for run in runs if run["method"] == "none" and run["seed"] in own}
        if name != "none" and base:
            found[name]["gain"] = with_error([own[seed]["macro_f1"] - value for seed, value in base.items()])
    return found


def markdown(table: dict[str, dict]) -> str:
    """The summary as a table of Markdown."""

    def shown(key: str, value: tuple[float, float | None] | None) -> str:
        if value is None:
            return "–"
        sign = "+" if key == "gain" else ""
        return f"{value[0]:{sign}.1f}" + ("" if value[1] is None else f" ± {value[1]:.1f}")

    columns = {"macro_f1": "macro-F1", "gain": "against none", **FIGURES}
    lines = ["| method | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in table.items():
        label = " ".join(map(str, METHODS[name])) or "none"
        lines.append(f"| `{label}` | " + " | ".join(shown(key, row.get(key)) for key in columns) + " |")
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = positive(int)
    parser.add_argument("--out", type=Path, default="data/imbalance", help="folder of data and runs (%(default)s)")
    parser.add_argument("--fewest", type=number, default=10, help="training videos of the rarest class (%(default)s)")
    parser.add_argument("--most", type=number, default=200, help="of the most frequent class (%(default)s)")
    parser.add_argument("--test", type=number, default=25, help="test videos of each class (%(default)s)")
    parser.add_argument("--seeds", type=number, default=3, help="(%(default)s)")
    parser.add_argument("--epochs", type=number, default=6, help="(%(default)s)")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS), help="methods (all)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="overrides of the config")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    sizes = np.geomspace(args.most, args.fewest, len(CLASSES)).round().astype(int).tolist()
    args.out.mkdir(parents=True, exist_ok=True)
    path = str(args.out / "results.jsonl")
    runs = read_json_lines(path) if os.path.isfile(path) else []
    for seed in range(args.seeds):
        folder = (args.out / f"seed_{seed}").resolve()
        counts = [sizes[place] for place in np.random.default_rng(seed).permutation(len(sizes))]
        render(folder, counts, args.test, seed)
        for name in args.only:
            if not any((run["seed"], run["method"]) == (seed, name) for run in runs):
                found = scores(*train_and_test(folder, name, seed, args), counts)
                runs.append({"seed": seed, "method": name, **found})
                append_json_lines(path, runs[-1])
    runs = [run for run in runs if run["seed"] < args.seeds and run["method"] in args.only]
    table = summary(runs)
    rows = [{"method": name, **figures} for name, figures in table.items()]
    print(to_json(rows, threads=1) if args.json else markdown(table))


if __name__ == "__main__":
    main()
