"""Time of matrix products, convolutions and attention alone: a lower bound of a pass."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from slowfast_uniformer.ops.activation_checkpointing import SAVED_OPS

_NAMES = {str(product).partition(".default")[0] for product in SAVED_OPS}
_KERNELS = _NAMES | {f"{name}_backward" for name in _NAMES}


class Alone(TorchDispatchMode):
    """Adds up `seconds` of the kernels called inside.

    Each counts with the minimum that `timed` measures in `repeats` calls in a row. Its operands are then in the cache,
    if they fit.
    """

    def __init__(self, timed: Callable[[Callable], float], repeats: int):
        super().__init__()
        self.timed, self.repeats, self.seconds = timed, repeats, 0.0

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if str(op.overloadpacket) in _KERNELS:
            self.seconds += min(self.timed(lambda: op(*args, **kwargs)) for _ in range(self.repeats))
            return op(*args, **kwargs)
        with self:  # in inference mode composite operations arrive undecomposed
            parts = op.decompose(*args, **kwargs)
        return op(*args, **kwargs) if parts is NotImplemented else parts


def alone(work: Callable[[], Any], timed: Callable[[Callable], float], repeats: int) -> float:
    """Seconds of the kernels of `work`; `timed` measures a function."""
    with Alone(timed, repeats) as mode:
        work()
    return mode.seconds
