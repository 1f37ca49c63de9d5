"""What `uniformer publish` refuses before anything is read: no licence, or a place that must not be written to.

Imports no PyTorch.
"""

import os
import re

import yaml

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import published
from slowfast_uniformer.runs.files import read_text
from slowfast_uniformer.weights import hub

_COMMON = "apache-2.0, mit, bsd-3-clause, cc-by-4.0, cc-by-sa-4.0, cc-by-nc-4.0, cc-by-nc-sa-4.0, cc0-1.0, gpl-3.0"
_ASK = (
    f"Say under which licence the model is given away: --license ID, such as {_COMMON}, or another SPDX identifier "
    "(https://spdx.org/licenses). It is yours to choose; the licences of the initial weights and of the videos bind you"
)


def checked_license(text: str | None) -> str:
    """A licence's identifier, in lower case as the hub writes it.

    Raises:
        UserError: there is none, or it is no identifier.
    """
    if not text:
        raise UserError(f"a model is not given away without a licence. {_ASK}")
    name = text.strip().lower()
    if name in ("other", "unknown", "none") or not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name):
        raise UserError(f"--license {text}: not the identifier of a licence. {_ASK}")
    return name


def license_of_card(text: str) -> str | None:
    """The licence that a card's front matter names; None if there is none."""
    match = re.match(r"---\r?\n(.*?)\r?\n---", text, re.S)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return None
    name = values.get("license") if isinstance(values, dict) else None
    name = values.get("license_name") if name == "other" else name
    return name if isinstance(name, str) and name else None


def check_arguments(run: str, target: str, license: str | None, private: bool = False, force: bool = False) -> None:
    """Refuse what cannot be published, as far as that is known without the weights. Arguments as of `publish`.

    Raises:
        UserError: no licence, a target that may not be replaced or cannot be reached.
    """
    to_hub = target.startswith(hub.SCHEME)
    if published.is_published(run):
        card = os.path.join(run, published.CARD)
        if license or not to_hub:
            raise UserError(
                f"{run}: is a published model already. Edit {card}, copy the folder, or upload it as it is: "
                f"uniformer publish {run} hf://USER/NAME"
            )
        missing = [name for name in published.FILES if not os.path.isfile(os.path.join(run, name))]
        if missing:
            raise UserError(f"{run}: a published model without its {', '.join(missing)}; publish the run again")
        if not license_of_card(read_text(card)):
            raise UserError(f"{card}: names no licence; begin it with the lines ---, license: ID, ---. {_ASK}")
    else:
        checked_license(license)
    if to_hub:
        hub.check_upload(target)
    elif private:
        raise UserError(f"{target}: --private is for the hub (hf://USER/NAME); a folder is as private as where it is")
    else:
        published.check_target(target, run, force)
