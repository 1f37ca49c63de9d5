"""The shipped configs: where they are, and their names, such as "k400/uniformer_s"."""

import os
from pathlib import Path

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import expand
from slowfast_uniformer.wording import did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """Return the folder of the shipped configs: inside the package when installed, or beside it in a checkout."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def labels_folder() -> Path:
    """Return the folder of the class names of public data sets, inside the package or beside it as `configs_folder`."""
    return configs_folder().parent / "datasets" / "labels"


def list_recipes() -> dict[str, str]:
    """Return the path of every shipped config by its name, without those of _base_."""
    folder = configs_folder()
    paths = {path.relative_to(folder): str(path) for path in sorted(folder.rglob("*.yaml"))}
    return {str(name.with_suffix("")): path for name, path in paths.items() if "_base_" not in name.parts}


def recipe_name(text: str) -> str | None:
    """Return the name of the shipped config that a text means (see `find_config`); None for a file of the user's."""
    path = os.path.realpath(find_config(text))
    return next((name for name, shipped in list_recipes().items() if os.path.realpath(shipped) == path), None)


def find_config(text: str) -> str:
    """Return the path of a config.

    Args:
        text: the path of a file, which takes precedence, or a recipe's name such as "k400/uniformer_s"; ".yaml" behind
            and "configs/" before it are optional.

    Raises:
        UserError: there is neither; names a similar recipe.
    """
    if os.path.isfile(path := expand(text)):
        return path
    name = text.removeprefix("configs/").removesuffix(".yaml")
    path = str(configs_folder() / f"{name}.yaml")
    if not os.path.isfile(path):  # Path.is_file raises where a folder may not be read
        similar = did_you_mean(name, list_recipes()) or "."
        raise UserError(f"{text}: no such config file or recipe{similar} `uniformer config` lists all recipes")
    return path
