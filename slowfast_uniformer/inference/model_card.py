"""The model card of a published model: README.md, whose front matter the Hugging Face hub reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

# Identifiers that the hub knows (its documentation, "Licenses"); it wants others as a `license_name`
_OF_THE_HUB = set(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigcode-openrail-m openrail++ afl-3.0 "
    "artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 "
    "cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 "
    "gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl mpl-2.0 odc-by "
    "odbl osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl".split()
)


_CARD = """\
---
{header}
---

# {name}

Video classification with {model}: {classes} classes, {labels}. Their names are in classes.txt, in the order of the
model's outputs.

A clip has {frames} frames of {crop} x {crop} pixels, {taken}. A video is classified from {views} views (clips x crops).

## Data

{data}

## Figures

{table}

## Use

```python
from slowfast_uniformer import load_model
model = load_model("{address}"{consent})
print(model.predict("video.mp4"))
```
{module}
The weights are model.safetensors; no file of the model holds code.

## Versions

{programs}

## Licence

{license}
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """The text of a card.

    Args:
        facts: what metrics.json holds, and `name` (the title), `address` (what `load_model` is given), `license`,
            `data` (the user's text, or "") and `import` (the Python module that the model needs, or "").
    """
    known, several, module = facts["license"] in _OF_THE_HUB, facts["multi_label"], facts["import"]
    header = {"license": facts["license"]} if known else {"license": "other", "license_name": facts["license"]}
    header |= {
        "library_name": "slowfast_uniformer",
        "pipeline_tag": "video-classification",
        "tags": ["video-classification", "slowfast_uniformer", facts["model"].lower()],
        "metrics": ["mean_average_precision" if several else "accuracy"],
    }
    clip = facts["clip"]
    derived = {
        "header": yaml.safe_dump(header, sort_keys=False).strip(),
        "labels": "of which a video has any number (sigmoid)" if several else "of which a video has one (softmax)",
        "taken": "spread over the video" if clip["sampling"] == "sparse" else f"at a stride of {clip['rate']}",
        "data": facts["data"] or "The author has not described the data.",
        "table": "\n".join(_figures(facts["figures"])),
        "consent": ", allow_import=True" if module else "",
        "module": f"\nThe model is built by the Python module `{module}`, which is to be installed, too.\n"
        * bool(module),
        "programs": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    }
    return _CARD.format_map(facts | clip | derived)


def _figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of figures; a sentence where there are none."""
    if not rows:
        return ["None were recorded."]
    names = {"top1_acc": "top-1", "top5_acc": "top-5", "mean_class_acc": "mean per class", "map": "mAP"}
    keys = [key for key in names if any(row.get(key) is not None for row in rows)]
    cells = [["measured on", "videos", "views", *(names[key] for key in keys)], ["---"] * (3 + len(keys))]
    for row in rows:
        figures = [f"{row[key]:.2f} %" if row.get(key) is not None else "" for key in keys]
        cells.append([row["split"], str(row.get("num_videos", "")), row["views"] or "not recorded", *figures])
    note = "Views are clips x crops of each video. The lists are the author's: see Data."
    return [*(f"| {' | '.join(line)} |" for line in cells), "", note]
