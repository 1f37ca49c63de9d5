"""What matrix products, convolutions and attention take by themselves, which a pass cannot be faster than."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from slowfast_uniformer.ops.activation_checkpointing import SAVED_OPS

_NAMES = {str(product).partition(".default")[0] for product in SAVED_OPS}
_KERNELS = _NAMES | {f"{name}_backward" for name in _NAMES}


class Alone(TorchDispatchMode):
    """Counts `seconds` of the kernels that are called inside, each the least that `timed` tells of `repeats`
    calls one after another, on the same operands: they are in the cache, if they fit."""

    def __init__(self, timed: Callable[[Callable], float], repeats: int):
        super().__init__()
        self.timed, self.repeats, self.seconds = timed, repeats, 0.0

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if str(op.overloadpacket) in _KERNELS:
            self.seconds += min(self.timed(lambda: op(*args, **kwargs)) for _ in range(self.repeats))
            return op(*args, **kwargs)
        with self:  # in inference mode layers get here whole
            parts = op.decompose(*args, **kwargs)
        return op(*args, **kwargs) if parts is NotImplemented else parts


def alone(work: Callable[[], Any], timed: Callable[[Callable], float], repeats: int) -> float:
    """Seconds of the kernels of `work`, as `timed` tells those of a function."""
    with Alone(timed, repeats) as mode:
        work()
    return mode.seconds
