"""The published checkpoints: names, recipes, figures, class order, and where their files are (registry.json).

Imports no PyTorch, and reads the data at the first use.
"""

import difflib
import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

ENDINGS = (".pth", ".pyth", ".pt", ".bin", ".safetensors", ".h5")
_DATA = Path(__file__).with_name("registry.json")
_HASH_IN_NAME = re.compile(r"(?P<date>_20\d{6})?-(?P<hash>[0-9a-f]{8,64})\.[a-z0-9]+$")


@dataclass(frozen=True)
class Source:
    """One place that has a checkpoint's file.

    Attributes:
        kind: how it is fetched: "hub" (Hugging Face), "gdrive" (Google Drive) or "https".
        address: hf://USER/REPO/FILE, or a link.
        origin: who made this file: "release", "openai", "hugging_face", "mmaction2" (its port), "keras" (a conversion).
        certain: whether its being there was read from the publisher's pages; False: it is likely by other evidence.
        file: its name here.
        size: in bytes; 0 where it is not known.
        sha256: of the file, 64 hex digits, or the first of them as far as known; "" where none is.
        classes: the order of its classifier's rows where that is not the checkpoint's (see `Checkpoint`); else "".
        failing_since: year and month since when users report that it cannot be reached; "" if none do.
        gone_since: since when it is known to be gone: it is not tried.
    """

    kind: str
    address: str
    origin: str
    certain: bool
    file: str = ""
    size: int = 0
    sha256: str = ""
    classes: str = ""
    failing_since: str = ""
    gone_since: str = ""

    def __post_init__(self) -> None:
        if not self.file:
            object.__setattr__(self, "file", self.address.split("?")[0].rsplit("/", 1)[1])
        if not self.sha256:
            object.__setattr__(self, "sha256", hash_in_name(self.file))


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint.

    Attributes:
        name: of the release, without the file's ending.
        recipes: the configs of configs/ whose training it is the result of.
        classes: the list in datasets/labels, without ".txt", in whose order its classifier's rows are; "" where the
            classifier is not one of those.
        classes_certain: whether that order was checked against the release's own lists.
        top1, top5: published accuracies in percent; None where none is published.
        views: those of the published accuracies: frames x crops x clips.
        note: what else there is to know.
        sources: in the order in which they are tried.
    """

    name: str
    recipes: tuple[str, ...]
    classes: str
    classes_certain: bool
    top1: float | None
    top5: float | None
    views: str
    sources: tuple[Source, ...]
    note: str = ""

    @property
    def released(self) -> bool:
        """Whether these are the tensors of the release (and not of a training by others)."""
        return not self.name.startswith("mmaction2_")


def hash_in_name(file: str) -> str:
    """The start of the SHA-256 in a name such as "x_20221219-c630a037.pth" (OpenMMLab, torch.hub); "" if there is none.

    Digits alone, without a date before them, are taken for a date themselves.
    """
    found = _HASH_IN_NAME.search(file)
    return found["hash"] if found and (found["date"] or not found["hash"].isdigit()) else ""


@functools.cache
def checkpoints() -> dict[str, Checkpoint]:
    """All published checkpoints by name: initial weights, then those of the recipes."""
    entries = json.loads(_DATA.read_text(encoding="utf-8"))
    found = {}
    for entry in entries:
        sources = tuple(Source(**source) for source in entry.pop("sources"))
        found[entry["name"]] = Checkpoint(sources=sources, recipes=tuple(entry.pop("recipes")), **entry)
    return found


def find_checkpoint(name: str) -> Checkpoint | None:
    """The checkpoint that a name means, or None.

    Args:
        name: a checkpoint's name, with or without its file's ending, and as released YAMLs write it
            (k400/k400+k710_X.pyth); the name of one of its files; or a recipe's, such as "k400/uniformer_s" (also
            "k400/uniformer_s_1gpu"), which means the released checkpoint of that recipe.
    """
    if recipe := released_checkpoint(name):
        return recipe
    folder, base = os.path.split(name)
    if folder and folder not in {recipe.split("/")[0] for recipe in _by_recipe()}:
        return None
    stem, ending = os.path.splitext(base)
    stem = (stem if ending in ENDINGS else base).replace("+", "_")
    return checkpoints().get(stem) or _by_file().get(base)


def released_checkpoint(recipe: str) -> Checkpoint | None:
    """The checkpoint that was released for a recipe ("k400/uniformer_s"), or None. It may have no sources."""
    return _by_recipe().get(recipe.removesuffix("_1gpu"))


def sources_of_file(file: str) -> list[Source]:
    """All sources whose file has this name."""
    return [source for checkpoint in checkpoints().values() for source in checkpoint.sources if source.file == file]


def similar_names(name: str) -> list[str]:
    """The names of checkpoints that are most similar to one that does not exist."""
    stem = os.path.splitext(os.path.basename(name))[0]
    return difflib.get_close_matches(stem, checkpoints(), n=2, cutoff=0.6)


@functools.cache
def _by_recipe() -> dict[str, Checkpoint]:
    found: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints().values():
        for recipe in checkpoint.recipes:
            found.setdefault(recipe, checkpoint)  # the release is before others' trainings
    return found


@functools.cache
def _by_file() -> dict[str, Checkpoint]:
    return {source.file: checkpoint for checkpoint in checkpoints().values() for source in checkpoint.sources}
