"""Pieces that more than one architecture is made of."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import library, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torchvision.ops import StochasticDepth


@dataclass(frozen=True)
class Forms:
    """How operations are computed that have several forms of equal results (docs/performance.md).

    `layout` of volumes in memory: contiguous, (B, C, T, H, W) as they are indexed, or channels_last, where
    1x1x1 convolutions and patch embeddings are matrix products. `dw_conv`: depth-wise convolutions by conv3d,
    or with gradients that are unrolled over time. `attention`: fused, or explicit with all weights in memory.
    "auto" is what was measured to be fastest on the CPU, and elsewhere PyTorch's own operations.
    """

    layout: str = "auto"
    dw_conv: str = "auto"
    attention: str = "fused"

    def channels_last(self, x: torch.Tensor) -> bool:
        return self.layout == "channels_last" or self.layout == "auto" and x.device.type == "cpu"

    def unrolled(self, x: torch.Tensor) -> bool:
        return self.dw_conv == "unrolled" or self.dw_conv == "auto" and x.device.type == "cpu"


PART = 2048  # rows of a matrix of which one thread's cache holds what lies between layers
PLAIN = Forms(layout="contiguous", dw_conv="conv3d", attention="explicit")  # the straightforward ones


class Formed:
    """A module with operations of several forms."""

    forms = Forms()


def set_forms(model: nn.Module, **changes: str) -> nn.Module:
    """Choose the forms of a model's operations, by the names of `Forms`; the others stay. Returns `model`."""
    for module in model.modules():
        if isinstance(module, Formed):
            module.forms = replace(module.forms, **changes)
    return model


def plain(model: nn.Module) -> nn.Module:
    """Make `model` compute as a straightforward build of it would, which is what the fast forms are measured
    and tested against. Parameters stay as they are. Returns `model`."""
    for module in model.modules():
        if hasattr(module, "fold"):
            module.fold = False
    return set_forms(model, **vars(PLAIN))


def lay_out(x: torch.Tensor, forms: Forms) -> torch.Tensor:
    """(B, C, T, H, W) in the memory layout that convolutions want; values and shape stay."""
    return channels_last(x) if forms.channels_last(x) else x.contiguous()


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """(B, C, T, H, W) with its channels last in memory. Views of one clip can have any stride of B, but
    convolutions read the layout from it: it gets that of several clips."""
    rows = x.movedim(1, -1).contiguous()
    return rows.flatten(0, 3).view(rows.shape).movedim(-1, 1)


def attention_weights(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """softmax(q k^T · scale), in fp32: (B, heads, M, dim) to (B, heads, N, dim) gives (B, heads, M, N)."""
    return (q @ k.transpose(-2, -1) * scale).softmax(dim=-1, dtype=torch.float32)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, dropout: float = 0.0,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """The means of v that q and k weight, all (B, heads, N, dim); `weights` are given where they are kept in
    memory, and otherwise only for a block of them at a time."""
    if weights is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    return F.dropout(weights, dropout).to(v.dtype) @ v


class _QuickGELU(torch.autograd.Function):
    """Keeps x alone for the backward pass."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.silu(1.702 * x, inplace=True).div_(1.702)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(upstream, 1.702 * x)


class QuickGELU(Formed, nn.Module):
    """CLIP's approximation of GELU, x · σ(1.702 x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.forms.channels_last(x) and not tracing():
            return _QuickGELU.apply(x)
        return x * torch.sigmoid(1.702 * x)


class GELU(Formed, nn.GELU):
    """x Φ(x). Channels that are last in memory are last in shape, too, for it: on the CPU a contiguous volume
    takes about half the time of a permuted one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() < 5 or not self.forms.channels_last(x):
            return super().forward(x)
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class PointwiseConv3d(Formed, nn.Conv3d):
    """A 1x1x1 convolution of (B, C, T, H, W), which is a linear layer where channels are last in memory."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__(in_dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.forms.channels_last(x):
            return super().forward(x)
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class PatchConv3d(Formed, nn.Conv3d):
    """A convolution whose stride is its kernel in space, zero-padded in time if that is odd.

    Where channels are last in memory it is one matrix product with the patches, which need no
    convolution's backward pass: oneDNN's has given garbage for small ones in bf16.
    """

    def __init__(
        self, in_dim: int, dim: int, kernel: tuple[int, int, int], stride: int = 1, bias: bool = True
    ):  # fmt: skip
        padding = (kernel[0] // 2, 0, 0)
        super().__init__(in_dim, dim, kernel, (stride, *kernel[1:]), padding=padding, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.forms.channels_last(x):
            return super().forward(x)
        (time, *size), stride = self.kernel_size, self.stride[0]
        (height, width), frames = (n // k for n, k in zip(x.shape[3:], size, strict=True)), x.shape[2]
        x = x.movedim(1, -1)  # before anything else, so that its gradient has its layout, too
        if x.shape[2:4] != (height * size[0], width * size[1]):
            x = x[:, :, : height * size[0], : width * size[1]]
        x = x.unflatten(3, (width, size[1])).unflatten(2, (height, size[0]))
        x = x.transpose(3, 4).flatten(4)  # (B, T, H', W', values of a patch)
        if time > 1:
            x = F.pad(x, (0, 0, 0, 0, 0, 0, time // 2, time // 2))
        shifted = [x[:, i : i + frames : stride] for i in range(time)]
        x = torch.cat(shifted, dim=-1) if time > 1 else shifted[0]
        weight = self.weight.permute(0, 2, 3, 4, 1).flatten(1)
        return F.linear(x, weight, self.bias).movedim(-1, 1)


class StemConv3d(Formed, nn.Conv3d):
    """A 3x3x3 convolution of a clip's pixels, of stride 2 in space: (B, 3, T, H, W) -> (B, dim, T, H/2, W/2),
    rounded up.

    A single clip goes through it as two halves in time: for one alone PyTorch chooses a form on the CPU that
    takes about three times as long.
    """

    def __init__(self, dim: int):
        super().__init__(3, dim, 3, stride=(1, 2, 2), padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half, odd = divmod(x.shape[2], 2)
        if tracing() or len(x) > 1 or odd or not self.forms.channels_last(x):
            return super().forward(x)
        padded = F.pad(x.movedim(1, -1), (0, 0, 0, 0, 0, 0, 1, 1))
        halves = torch.cat((padded[:, : half + 2], padded[:, half:])).movedim(-1, 1)
        y = F.conv3d(halves, self.weight, self.bias, self.stride, (0, 1, 1))
        return y.movedim(1, -1).flatten(0, 1).unsqueeze(0).movedim(-1, 1)


def _taps(frames: int, kernel: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which slice of a kernel leads from a frame (column) to a frame (row), and whether it reaches so far."""
    times = torch.arange(frames)
    taps = times - times[:, None] + kernel // 2
    return taps.clamp(0, kernel - 1), (taps >= 0) & (taps < kernel)


def _weight_gradient(
    upstream: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, groups: int
) -> torch.Tensor:  # fmt: skip
    """Of a 2-D convolution that keeps its size."""
    padding = [size // 2 for size in weight.shape[2:]]
    options = ([1, 1], padding, [1, 1], False, [0, 0], groups, [False, True, False])
    return torch.ops.aten.convolution_backward(upstream, x, weight, [0], *options)[1]


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    """x.contiguous(), by transpositions of matrices, which are up to six times as fast."""
    y = x.new_empty(x.shape)
    for clip, to in zip(x.flatten(2), y.flatten(2), strict=True):
        to.copy_(clip)
    return y


def _banded(upstream: torch.Tensor, x: torch.Tensor, kernel: torch.Size) -> torch.Tensor:
    """Gradient (C, *kernel) of a depth-wise kernel as that of one 2-D convolution whose channels are the
    frames: its kernels hold the 3-D kernel's slices along a band."""
    dim, frames = x.shape[1:3]
    taps, inside = (each.to(x.device) for each in _taps(frames, kernel[0]))
    band = x.new_empty(1).expand(dim * frames, frames, *kernel[1:])  # only its shape matters
    upstream, x = (_channels_first(volume).flatten(1, 2) for volume in (upstream, x))
    found = _weight_gradient(upstream, x, band, dim)
    slices = found.unflatten(0, (dim, frames)) * inside[:, :, None, None]
    return x.new_zeros(dim, *kernel).index_add_(1, taps.flatten(), slices.flatten(1, 2))


def _by_taps(upstream: torch.Tensor, x: torch.Tensor, kernel: torch.Size) -> torch.Tensor:
    """The same, as that of a depth-wise 2-D convolution for each slice of the kernel."""
    dim, frames = x.shape[1:3]
    weight, found = x.new_empty(dim, 1, *kernel[1:]), x.new_zeros(dim, *kernel)
    for tap in range(kernel[0]):
        shift = tap - kernel[0] // 2
        rows = slice(max(0, -shift), frames - max(0, shift))
        columns = slice(max(0, shift), frames + min(0, shift))
        for clip in range(len(x) if abs(shift) < frames else 0):
            pair = upstream[clip, :, rows].movedim(0, 1), x[clip, :, columns].movedim(0, 1)
            found[:, tap] += _weight_gradient(*pair, weight, dim).squeeze(1)
    return found


@library.custom_op("slowfast_uniformer::depthwise_weight_gradient", mutates_args=())
def _depthwise_weight_gradient(upstream: torch.Tensor, x: torch.Tensor, kernel: list[int]) -> torch.Tensor:
    """(C, 1, *kernel), of volumes whose channels are last in memory. torch.compile takes it as it is: its own
    way would be conv3d's, which takes several times as long."""
    gradient = _by_taps if max(kernel[1:]) <= 3 else _banded  # larger ones are slow in 2-D, too
    return gradient(upstream, x, torch.Size(kernel)).unsqueeze(1)


@_depthwise_weight_gradient.register_fake
def _(upstream: torch.Tensor, x: torch.Tensor, kernel: list[int]) -> torch.Tensor:
    return x.new_empty(x.shape[1], 1, *kernel)


class _Depthwise(torch.autograd.Function):
    """conv3d forwards; backwards the same with the kernel turned round, and 2-D convolutions."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.conv3d(x, weight, bias, padding=[size // 2 for size in weight.shape[2:]], groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        x, weight = ctx.saved_tensors
        kernel, upstream = list(weight.shape[2:]), channels_last(upstream)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2, 3, 4).to(upstream.dtype)
            padding = [size // 2 for size in kernel]
            grad_x = F.conv3d(upstream, turned, padding=padding, groups=len(weight)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            x = channels_last(x.to(upstream.dtype))
            grad_weight = _depthwise_weight_gradient(upstream, x, kernel).to(weight.dtype)
        return grad_x, grad_weight, upstream.sum((0, 2, 3, 4)).to(weight.dtype)


class DepthwiseConv3d(Formed, nn.Conv3d):
    """A convolution of each channel by itself, zero-padded so that (B, dim, T, H, W) keeps its shape.

    Unrolled, its gradients take a fraction of conv3d's time on the CPU (docs/performance.md).
    """

    def __init__(self, dim: int, kernel: int | tuple[int, int, int]):
        sizes = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(dim, dim, sizes, padding=tuple(size // 2 for size in sizes), groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = lay_out(x, self.forms)
        if self.forms.unrolled(x) and self.kernel_size[1:] == (1, 1):  # over time alone: two dimensions do
            weight = self.weight.flatten(1)[:, None, :, None]
            plane = x.movedim(1, -1).flatten(2, 3)  # x.flatten(3) has strides that hide the layout
            y = F.conv2d(plane.movedim(-1, 1), weight, self.bias, 1, (self.padding[0], 0), 1, self.groups)
            return y.movedim(1, -1).unflatten(2, x.shape[3:]).movedim(-1, 1)
        if self.forms.unrolled(x) and not exporting():
            return _Depthwise.apply(x, self.weight, self.bias)
        # By way of a view the gradient gets the weight's strides, whatever the layout; else DDP would warn.
        return F.conv3d(x, self.weight.squeeze(1).unsqueeze(1), self.bias, 1, self.padding, 1, self.groups)


def exporting() -> bool:
    """Whether a graph is being made for other programs, in which derivatives of ours have no place."""
    exports = (torch.compiler.is_exporting, torch.onnx.is_in_onnx_export, torch.jit.is_tracing)
    return any(export() for export in exports)


def tracing() -> bool:
    """Whether any graph is being made, whose operations are chosen by what makes it."""
    return torch.compiler.is_compiling() or exporting()


def drop_path(rate: float) -> nn.Module:
    """Stochastic depth (arXiv 1603.09382): in training, drop each row of dimension 0 at this rate."""
    return StochasticDepth(rate, mode="row")


def by_tokens(function: Callable, *volumes: torch.Tensor) -> torch.Tensor:
    """`function` of volumes (B, C, T, H, W), which must treat each position by itself.

    Where no gradient will be asked for, it gets `PART` of them at a time, as (1, C, PART, 1, 1).
    """
    first = volumes[0]
    last = first.device.type == "cpu" and first.is_contiguous(memory_format=torch.channels_last_3d)
    if torch.is_grad_enabled() or not last or tracing():
        return function(*volumes)
    parts = zip(*(volume.movedim(1, -1).flatten(0, -2).split(PART) for volume in volumes), strict=True)
    found = [function(*(part.t()[None, :, :, None, None] for part in each)) for each in parts]
    y = torch.cat([part[0, :, :, 0, 0].t() for part in found])
    return y.view(first.movedim(1, -1).shape).movedim(-1, 1)


class _MlpByParts(torch.autograd.Function):
    """Linear, GELU, linear for the rows of a matrix, `PART` for each thread at a time: the CPU's cache then
    holds what lies between. GELU is computed again backwards, and its outputs need not be kept."""

    @staticmethod
    def _parts(*matrices: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        return zip(*(m.split(PART * torch.get_num_threads()) for m in matrices), strict=True)

    @staticmethod
    def forward(ctx, x, weight_1, bias_1, weight_2, bias_2):
        hidden, y = x.new_empty(len(x), len(weight_1)), x.new_empty(len(x), len(weight_2))
        for rows, inner, out in _MlpByParts._parts(x, hidden, y):
            torch.addmm(bias_1, rows, weight_1.t(), out=inner)
            torch.addmm(bias_2, F.gelu(inner), weight_2.t(), out=out)
        ctx.save_for_backward(x, hidden, weight_1, weight_2)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        x, hidden, weight_1, weight_2 = ctx.saved_tensors
        grad_x, grad_1, grad_2 = torch.empty_like(x), torch.zeros_like(weight_1), torch.zeros_like(weight_2)
        grad_bias_1 = x.new_zeros(len(weight_1))
        for rows, inner, up, out in _MlpByParts._parts(x, hidden, upstream, grad_x):
            grad_2.addmm_(up.t(), F.gelu(inner))
            grad_inner = torch.ops.aten.gelu_backward(up @ weight_2, inner)
            grad_1.addmm_(grad_inner.t(), rows)
            grad_bias_1 += grad_inner.sum(0)
            torch.mm(grad_inner, weight_1, out=out)
        return grad_x, grad_1, grad_bias_1, grad_2, upstream.sum(0)


class Mlp(Formed, nn.Module):
    """Two layers, GELU between: linear on (..., dim), or as 1x1x1 convolutions on (B, dim, T, H, W)."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0, conv: bool = False):
        super().__init__()
        layer = PointwiseConv3d if conv else nn.Linear
        self.conv = conv
        self.fc1 = layer(dim, hidden)
        self.act = GELU()
        self.fc2 = layer(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self._goes_by_parts(x):
            return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
        last = x.movedim(1, -1) if self.conv else x
        weights = (self.fc1.weight.flatten(1), self.fc1.bias, self.fc2.weight.flatten(1), self.fc2.bias)
        y = _MlpByParts.apply(last.flatten(0, -2), *weights).view(last.shape)
        return y.movedim(-1, 1) if self.conv else y

    def _goes_by_parts(self, x: torch.Tensor) -> bool:
        """Whether all gradients will be asked for, of enough rows, and nobody watches single operations."""
        if not (torch.is_grad_enabled() and all(p.requires_grad for p in self.parameters())):
            return False
        if tracing() or is_in_torch_dispatch_mode() or self.training and self.drop.p:
            return False
        single = x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)
        much = x.numel() > PART * torch.get_num_threads() * self.fc1.weight.shape[1]
        return single and much and x.device.type == "cpu" and self.forms.channels_last(x)


def resize_position(embedding: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Position embeddings (1 + s·s, dim), the class token's first, for a grid of H, W: (1 + H·W, dim).

    Another grid than s, s is interpolated bicubically, without antialiasing.
    """
    side = math.isqrt(len(embedding) - 1)
    if grid == (side, side):
        return embedding
    patches = embedding[1:].T.reshape(1, -1, side, side)
    patches = F.interpolate(patches.float(), grid, mode="bicubic", align_corners=False)
    return torch.cat((embedding[:1], patches.flatten(2)[0].T.to(embedding.dtype)))


def new_classifier(old: nn.Linear, num_classes: int) -> nn.Linear:
    """A freshly drawn classifier that reads what `old` read, on the same device and in the same precision."""
    new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    init_linear(new)
    return new


def init_linear(module: nn.Module) -> None:
    """The weights a linear layer starts from (others are left alone); for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def repeated_parts(model: nn.Module) -> list[nn.Module]:
    """The blocks that a model repeats, inner ones first: members of its module lists that have parameters,
    without a head among them, which may not be called as a whole."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    heads = {model.get_submodule(name) for name in getattr(model, "classifier", ())}
    parts = [part for parts in reversed(lists) for part in parts]
    return [p for p in parts if any(True for _ in p.parameters()) and heads.isdisjoint(p.modules())]


def compile_parts(model: nn.Module) -> None:
    """Have torch.compile take the blocks that a model repeats, when they are first called."""
    parts, config = repeated_parts(model), torch._dynamo.config
    # With its own rate of stochastic depth each is a variant, in training and in evaluation; what is above
    # the limit would stay as it is.
    config.recompile_limit = max(config.recompile_limit, 2 * len(parts))
    for part in parts:
        part.compile()
