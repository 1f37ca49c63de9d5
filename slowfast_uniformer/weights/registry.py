"""Where weights are found: a path, a name in $SLOWFAST_UNIFORMER_WEIGHTS, or an address."""

import os

from slowfast_uniformer import paths
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints

_ENDINGS = (".pth", ".pyth", ".pt", ".bin", ".safetensors", ".h5")


def find_weights(name: str) -> str:
    """The local file that MODEL.INIT_FROM means.

    Args:
        name: a path (of a file, a .dcp folder, or a run's folder, of which the best or else the latest checkpoint is
            meant); a name in the folder $SLOWFAST_UNIFORMER_WEIGHTS, with or without its ending; or an address that
            iopath's path manager can fetch (http:// and what is registered with `g_pathmgr`). Released YAMLs say
            k400/k400+k710_X.pyth of a file published as k400_k710_X.pyth: in the folder that name is tried too.

    Raises:
        UserError: there is no such file, or it cannot be fetched.
    """
    if "://" in name:
        return paths.fetch(name)
    folder = paths.expand(os.environ.get("SLOWFAST_UNIFORMER_WEIGHTS", ""))
    names = [name + ending for ending in ("", *_ENDINGS)] + [os.path.basename(name).replace("+", "_")]
    candidates = [name, *(os.path.join(folder, each) for each in names if folder)]
    for path in candidates:
        if os.path.isfile(path) or (os.path.isdir(path) and path.endswith(".dcp")):
            return path
        if os.path.isdir(checkpoints.checkpoint_dir(path)):
            return checkpoints.find_checkpoint(path)
    if os.path.isdir(name):
        return checkpoints.find_checkpoint(name)
    where = f"in SLOWFAST_UNIFORMER_WEIGHTS ({folder})" if folder else "and SLOWFAST_UNIFORMER_WEIGHTS is unset"
    raise UserError(
        f"no weights {name!r}: no such file, {where}. Put the file there, or name its path or a run's folder; "
        'MODEL.INIT_FROM "" starts from random weights'
    )
