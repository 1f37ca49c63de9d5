"""Uploading a published model to the Hugging Face hub. What is fetched from it is in download.py.

huggingface_hub is imported where it is used, as it takes a moment.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.published import CARD, FILES, METRICS, WEIGHTS
from slowfast_uniformer.weights.resolve import offline

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)/?")
_LOG_IN = (
    "run `hf auth login`, or set HF_TOKEN, with a token of your account there that may write; or "
    "publish to a folder now, and that folder to the hub later"
)
_LATER = "Try again; or publish to a folder now, and that folder to the hub later"


def check_upload(address: str) -> None:
    """Refuse an upload that cannot succeed, before any work is done for it.

    Raises:
        UserError: the address is none, the network is forbidden, or there is no token.
    """
    from huggingface_hub import get_token

    if not _ADDRESS.fullmatch(address):
        raise UserError(f"{address}: not an address of the hub; write hf://USER/NAME")
    if variable := offline():
        raise UserError(
            f"{address}: cannot upload, as {variable} is set. Unset it; or publish to a folder now, and that folder to "
            "the hub later"
        )
    if not get_token():
        raise UserError(f"{address}: not logged in to the hub; {_LOG_IN}")


def upload(folder: str, address: str, private: bool = False, force: bool = False) -> str:
    """Upload a published model in one commit; the repository is made if there is none.

    Args:
        folder: a published model. Other files in it are not uploaded.
        address: as hf://USER/NAME.
        private: make it a repository that only its owner sees.
        force: replace files of a repository that holds something else.

    Returns:
        The address of its page.

    Raises:
        UserError: it cannot be uploaded, the repository holds something else, or it is public and not `private`.
    """
    from huggingface_hub import HfApi

    repo, api = _ADDRESS.fullmatch(address)[1], HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    with _errors_explained(address):
        page = api.create_repo(repo, private=private or None, exist_ok=True)
        info = api.repo_info(repo)
    if private and not info.private:
        raise UserError(
            f"{address}: the repository is public, which --private does not change. Make it private in its settings "
            f"({page}/settings), or name another one"
        )
    there = {file.rfilename for file in info.siblings or ()}
    if there & {CARD, WEIGHTS} and METRICS not in there and not force:
        raise UserError(
            f"{address}: the repository holds another model, of which {', '.join(sorted(there & {*FILES}))} would be "
            "replaced; name another one, or add --force"
        )
    with _errors_explained(address):
        api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=[*FILES], commit_message="Publish a model")
    return str(page)


@contextmanager
def _errors_explained(address: str) -> Iterator[None]:
    """Turn whatever huggingface_hub raises into one message."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404):  # a repository of somebody else is not found
            raise UserError(
                f"{address}: the hub refused it ({status}): this token may not write there; {_LOG_IN}"
            ) from None
        raise UserError(f"{address}: the hub answers {status} ({_first_line(error)}). {_LATER}") from None
    except Exception as error:  # httpx's, Xet's, names that are not valid and others
        raise UserError(f"{address}: cannot be uploaded ({_first_line(error)}). {_LATER}") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
