"""The results of tools/benchmarks/gpu.py as a Markdown page."""

from collections.abc import Iterable, Sequence
from typing import Any

from gpu_parts.cases import Row
from gpu_parts.correctness import IMPLEMENTATIONS, LIMITS, PRECISIONS
from gpu_parts.speed import MATRIX_PRODUCT

DRY_RUN = (
    "**A dry run on the CPU with tiny sizes: it shows that the script runs. No figure on this page measures anything.**"
)
KINDS = ("step", "forward")


def add_shares(rows: list[Row]) -> None:
    """Add to the rows of models the share that their rates are of the measured matrix product."""
    peak = next((row["tflops"] for row in rows if row["name"] == MATRIX_PRODUCT and row["status"] == "ok"), None)
    for row in rows:
        for kind in KINDS:
            if peak and f"{kind}_tflops" in row:
                row[f"{kind}_share"] = row[f"{kind}_tflops"] / peak


def fastest(rows: Iterable[Row], kind: str) -> dict[str, Row]:
    """The row with most clips per second, by model; compiled ones left out, as `auto` does not choose that."""
    best: dict[str, Row] = {}
    for row in rows:
        key = f"{kind}_clips_per_second"
        if key in row and not row["compiled"] and row[key] > best.get(row["model"], {key: 0.0})[key]:
            best[row["model"]] = row
    return best


def to_markdown(results: dict[str, Any]) -> str:
    """The page of the results that gpu.py writes as JSON."""
    lines = ["# Measurements on a GPU", ""]
    if results["dry_run"]:
        lines = ["# Dry run of the measurements on a GPU", "", DRY_RUN, ""]
    facts = {key: value for key, value in results["machine"].items() if value is not None}
    lines += [f"`{results['command']}`", "", ", ".join(f"{key} {value}" for key, value in facts.items()), ""]
    writers = {"correctness": _correctness, "speed": _speed, "feeding": _feeding}
    for part, rows in results["parts"].items():
        lines += [f"## {part.capitalize()}", "", *writers[part](rows, results["machine"]), *_without_figures(rows)]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(map(_shown, row))} |" for row in cells] + [""]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.01 else f"{value:.4g}"
    return str(value)


def _without_figures(rows: list[Row]) -> list[str]:
    """A list of the cases that gave no figures, or wrong ones, and why."""
    lines = [f"- {row['name']}: {row['status']}: {row['reason']}" for row in rows if row["status"] != "ok"]
    return ["Failed or not measured:", "", *lines, ""] if lines else []


def _correctness(rows: list[Row], machine: Row) -> list[str]:
    names = ("eval_error", "train_error", "gradient_error")
    golden, others = [], []
    for precision in PRECISIONS:
        for implementation in IMPLEMENTATIONS:
            chosen = [r for r in rows if (r.get("precision"), r.get("implementation")) == (precision, implementation)]
            if not chosen:
                continue
            worst = [max((row[name] for row in chosen if name in row), default=None) for name in names]
            right = sum(row["status"] == "ok" for row in chosen)
            golden.append([precision, implementation, f"{right} of {len(chosen)}", *worst])
    for row in rows:
        if "implementation" not in row and row["status"] in ("ok", "failed"):
            left_out = ("name", "status", "seconds", "reason")
            figures = ", ".join(f"{key} {_shown(value)}" for key, value in row.items() if key not in left_out)
            others.append([row["name"], row["status"], figures])
    limits = "; ".join(f"{name}: {_shown(of_logits)} and {_shown(rest)}" for name, (of_logits, rest) in LIMITS.items())
    lines = ["Golden figures of the released models, the largest relative errors. Limits of logits and gradients: "]
    lines = [lines[0] + limits + ".", ""]
    lines += _table(["precision", "implementation", "right", "evaluation", "training", "gradients"], golden)
    return lines + _table(["case", "status", "figures"], others)


def _speed(rows: list[Row], machine: Row) -> list[str]:
    header = ["model", "layout", "dw_conv", "compiled", "clips"]
    for kind in KINDS:
        header += [f"{kind}: clips/s", "TFLOP/s", "share", "peak GB"]
    header.append("first step, s")
    measured, lines = [row for row in rows if "step_clips_per_second" in row], []
    for row in sorted(measured, key=lambda row: row["model"]):
        cells = [row["model"], row["layout"], row["dw_conv"], row["compiled"], row["batch"]]
        for kind in KINDS:
            share = row.get(f"{kind}_share")
            cells += [row[f"{kind}_clips_per_second"], row[f"{kind}_tflops"], None if share is None else f"{share:.0%}"]
            cells.append(row.get(f"{kind}_peak_gb"))
        lines.append([*cells, row["step_first_seconds"]])
    peak = [f"{row['tflops']:.4g} TFLOP/s" for row in rows if row["name"] == MATRIX_PRODUCT and row["status"] == "ok"]
    text = (
        f"In {machine.get('precision')}. A matrix product has {''.join(peak) or 'not been measured'}; shares are of it."
    )
    best = []
    for kind in KINDS:
        for model, row in sorted(fastest(measured, kind).items()):
            best.append([kind, model, row["layout"], row["dw_conv"], row[f"{kind}_clips_per_second"]])
    auto = f"`auto` is {machine.get('auto_layout')} and {machine.get('auto_dw_conv')} here. The fastest, not compiled:"
    return [text, "", *_table(header, lines), auto, "", *_table(["", "model", "layout", "dw_conv", "clips/s"], best)]


def _feeding(rows: list[Row], machine: Row) -> list[str]:
    rates, trainings = [], []
    for row in rows:
        if "data_wait_percent" in row:
            figures = [row["place"], row["workers"], row["cores"], row["clips_per_second"], row["data_wait_percent"]]
            trainings.append(figures)
        elif "place" in row and row["status"] == "ok":
            rates.append([row["place"], row.get("clips_per_second"), row.get("clips_per_core_second")])
    lines = ["Transforms of the Kinetics-400 recipe on clips of 340x256 pixels. On the CPU a worker decodes, too.", ""]
    lines += _table(["transforms on", "clips/s", "clips per CPU second"], rates)
    lines += ["Training of UniFormer-S on them:", ""]
    return lines + _table(["transforms on", "workers", "cores", "clips/s", "waits for data, %"], trainings)
