"""Counts what makes a program wait for its device, on the CPU too, where it costs nothing."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Beside _local_scalar_dense, operations that hand a value to the program, or need one to know the size of their result
OPERATIONS = {"is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
METHODS = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__"}


def _is_read(func, args) -> bool:
    name = func.overloadpacket.__name__
    if name == "_local_scalar_dense":  # DDP's map of used parameters is of this type, and on the CPU with a GPU, too
        return args[0].dtype != torch.int32
    return name in OPERATIONS or _needs_size(func, args)


def _needs_size(func, args) -> bool:
    """Whether indices with a mask, whose result has as many elements as are true."""
    return func.overloadpacket.__name__ in ("index", "index_put_") and any(
        index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )


class _Operations(TorchDispatchMode):
    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if _is_read(func, args):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class DeviceReads(TorchFunctionMode):
    """Within this context `found` has the name of each read, as on a GPU."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self._operations = _Operations(self.found)

    def __enter__(self):
        self._operations.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._operations.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in METHODS and getattr(torch.Tensor, name) is func:
            self.found.append(name)
        return func(*args, **(kwargs or {}))
