"""Networks of all kinds of forward passes, plain and hostile, on images (2, 4, 4)."""

import math
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from robust_lowrank import adapt
from robust_lowrank.layers import LowRankLinear
from robust_lowrank.linalg import Factors

SHAPE = (2, 4, 4)
Forward = Callable[[Any, Tensor], Any]


class Network(nn.Module):
    """A network of one function, with layers to use."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.back = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(32, 5)
        self.head = nn.Linear(5, 4)
        self.seen = 0
        self.kept: list[Tensor] = []
        self.register_buffer("weights", torch.tensor([1.0, -3.0, 2.0, 0.5]))
        self.register_buffer("canvas", torch.zeros(1, 2, 6, 6))
        self.register_buffer("order", torch.tensor([1, 0]))
        self.register_buffer("mask", torch.rand(4, 4) > 0.5)
        self.norm.running_var.uniform_(0.2, 3)
        self.norm.weight.data.uniform_(-2, 2)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def flat(function: Forward) -> nn.Module:
    """Return the network that flattens what a function returns."""
    return Network(lambda net, x: function(net, x).flatten(1))


# Forward passes that must have a bound.
PLAIN: dict[str, Forward] = {
    "identity": lambda n, x: x,
    "conv": lambda n, x: n.conv(x),
    "conv and norm": lambda n, x: n.norm(n.conv(x)),
    "norm used twice": lambda n, x: (lambda h: n.norm(h) + h)(n.conv(x)),
    "skip": lambda n, x: x + n.back(F.relu(n.conv(x))),
    "head": lambda n, x: n.head(F.relu(n.fc(x.flatten(1)))),
    "selu": lambda n, x: F.selu(3 * n.conv(x)),
    "mish": lambda n, x: F.mish(3 * n.conv(x)),
    "hardswish": lambda n, x: F.hardswish(9 * n.conv(x)),
    "hardsigmoid": lambda n, x: F.hardsigmoid(3 * n.conv(x)),
    "prelu": lambda n, x: F.prelu(n.conv(x), n.weights[:3]),
    "celu": lambda n, x: F.celu(n.conv(x), 0.3),
    "elu": lambda n, x: F.elu(n.conv(x), 2.5),
    "leaky": lambda n, x: F.leaky_relu(n.conv(x), -3.0),
    "rrelu": lambda n, x: F.rrelu(n.conv(x), 1.0, 5.0),
    "gelu": lambda n, x: F.gelu(2 * n.conv(x), approximate="tanh"),
    "silu": lambda n, x: F.silu(4 * n.conv(x)),
    "erf": lambda n, x: torch.erf(n.conv(x)),
    "sine": lambda n, x: torch.sin(5 * x) + torch.cos(x) + torch.atan(x),
    "logsigmoid": lambda n, x: F.logsigmoid(n.conv(x)),
    "hardtanh": lambda n, x: F.hardtanh(n.conv(x), -0.2, 3.0),
    "relu6": lambda n, x: F.relu6(30 * x),
    "tanhshrink": lambda n, x: F.tanhshrink(4 * x),
    "clamp": lambda n, x: n.conv(x).clamp(-0.1, 0.2),
    "clamp to tensors": lambda n, x: x.clamp(min=n.weights.reshape(4, 1, 1, 1) - 3).flatten().reshape(1, -1)[:, ::3],
    "clamp from below": lambda n, x: torch.clamp_min(x, 0.4),
    "softmax": lambda n, x: (9 * x).softmax(dim=1),
    "log softmax": lambda n, x: F.log_softmax(9 * n.fc(x.flatten(1)), dim=1),
    "logsumexp": lambda n, x: torch.logsumexp(4 * x, dim=(2, 3)),
    "absolute": lambda n, x: (x - 0.5).abs(),
    "norm of pixels": lambda n, x: x.norm(dim=1),
    "vector norm": lambda n, x: torch.linalg.vector_norm(x - 0.5, dim=(2, 3)),
    "largest": lambda n, x: x.amax(dim=(2, 3)),
    "largest of one direction": lambda n, x: 3 * x.max(dim=2).values,
    "least": lambda n, x: x.min(dim=3)[0],
    "two extremes": lambda n, x: torch.maximum(x, 2 * x.flip(3)) + torch.minimum(x, n.back(n.conv(x))),
    "sum": lambda n, x: x.sum(dim=(1, 2)),
    "mean": lambda n, x: 2 * x.mean(dim=(2, 3)),
    "global mean": lambda n, x: F.adaptive_avg_pool2d(n.conv(x), 1),
    "max pool": lambda n, x: F.max_pool2d(n.conv(x), 3, 1, 1),
    "max pool with ceil": lambda n, x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "adaptive max": lambda n, x: F.adaptive_max_pool2d(x, 3),
    "mean pool": lambda n, x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "mean pool with divisor": lambda n, x: F.avg_pool2d(x, 2, divisor_override=1),
    "pool of sequences": lambda n, x: F.max_pool1d(F.avg_pool1d(x.flatten(2), 3, 1), 2, 1),
    "lp pool of order 2": lambda n, x: F.max_pool2d(x, 2).norm(dim=(2, 3)),
    "dropout": lambda n, x: F.dropout(x, 0.5, training=n.training),
    "flatten": lambda n, x: x.flatten(2).flatten(1),
    "view": lambda n, x: x.view(1, 4, 8),
    "permute": lambda n, x: x.permute(0, 2, 3, 1),
    "T": lambda n, x: x.flatten(1).T.flip(0).T,
    "mT": lambda n, x: x.mT,
    "squeeze": lambda n, x: x.unsqueeze(1).squeeze(1),
    "expand": lambda n, x: x.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1),
    "repeat": lambda n, x: x.repeat(1, 2, 3, 1),
    "repeat interleave": lambda n, x: x.repeat_interleave(3, dim=2),
    "tile": lambda n, x: torch.tile(x, (1, 1, 2, 2)),
    "slice": lambda n, x: x[:, :, ::2, 1:],
    "negative slice": lambda n, x: x[..., -2:],
    "twice": lambda n, x: x[:, [0, 0, 1]],
    "index by tensor": lambda n, x: x[:, n.order],
    "index by mask": lambda n, x: torch.where(n.mask, x, 3.0),
    "masked fill": lambda n, x: x.masked_fill(n.mask, -1e4),
    "gather": lambda n, x: x.flatten(1).gather(1, torch.tensor([[3, 3, 3, 9]]).expand(len(x), 4)),
    "index select": lambda n, x: x.index_select(3, torch.tensor([0, 0, 0])),
    "take along": lambda n, x: torch.take_along_dim(x.flatten(1), torch.tensor([[5, 5, 1]]), dim=1),
    "flip": lambda n, x: x.flip(2, 3),
    "roll": lambda n, x: torch.roll(x, 1, 2),
    "triangle": lambda n, x: x.tril() + x.triu(1),
    "diagonal": lambda n, x: x.diagonal(dim1=2, dim2=3),
    "chunk": lambda n, x: x.chunk(2, dim=2)[0],
    "split": lambda n, x: x.split([1, 3], dim=2)[1],
    "unbind": lambda n, x: x.unbind(1)[1],
    "unpacked": lambda n, x: (lambda a, b: a - 2 * b)(*x.unbind(1)),
    "cat": lambda n, x: torch.cat([x, 2 * x, n.canvas[..., :4, :4]], dim=1),
    "stack": lambda n, x: torch.stack([x, -x], dim=2),
    "pad": lambda n, x: F.pad(x, (1, 2, 0, 1), value=5.0),
    "crop": lambda n, x: F.pad(x, (-1, -1, 0, 0)),
    "reflection": lambda n, x: F.pad(x, (2, 2, 3, 3), mode="reflect"),
    "replication": lambda n, x: F.pad(x, (3, 3, 3, 3), mode="replicate"),
    "circular": lambda n, x: F.pad(x, (2, 2, 2, 2), mode="circular"),
    "pixel shuffle": lambda n, x: F.pixel_unshuffle(F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2), 2),
    "channel shuffle": lambda n, x: F.channel_shuffle(torch.cat([x, x], 1), 2),
    "nearest": lambda n, x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "nearest smaller": lambda n, x: F.interpolate(x, size=(3, 7), mode="nearest"),
    "patches": lambda n, x: F.unfold(x, 3, padding=1),
    "windows": lambda n, x: x.unfold(2, 3, 1),
    "plus a constant": lambda n, x: x + n.weights,
    "repeated sum": lambda n, x: x[:, :1] + x[:, :, :1],
    "difference": lambda n, x: torch.sub(x, n.back(n.conv(x)), alpha=2),
    "reversed difference": lambda n, x: 1 - 3 * x,
    "scaled": lambda n, x: x * n.weights.reshape(4, 1),
    "quotient": lambda n, x: x / n.weights,
    "negative": lambda n, x: -x,
    "matrix product": lambda n, x: x.flatten(1) @ n.fc.weight.T,
    "product from the left": lambda n, x: torch.matmul(n.conv.weight.flatten(1)[:, :4], x),
    "batched product": lambda n, x: torch.matmul(n.conv.weight[:, 0], x[..., :3, :].sum(1, keepdim=True)),
    "addmm": lambda n, x: torch.addmm(n.head.bias[:1], x.flatten(1), n.fc.weight.T, alpha=-3),
    "functional": lambda n, x: F.conv2d(x, 2 * n.conv.weight, stride=2, dilation=1, padding=2),
    "same": lambda n, x: F.conv2d(x, n.conv.weight, padding="same", dilation=2),
    "grouped": lambda n, x: F.conv2d(x, n.conv.weight[:2, :1], groups=2),
    "sequences": lambda n, x: F.conv1d(x.flatten(2), n.conv.weight[:, :, 0], stride=3, padding=2),
    "transposed": lambda n, x: F.conv_transpose2d(n.conv(x), n.conv.weight, stride=2, padding=1, output_padding=1),
    "transposed, grouped": lambda n, x: F.conv_transpose2d(x, n.conv.weight[:2, :1], groups=2, dilation=2),
    "transposed sequences": lambda n, x: F.conv_transpose1d(x.flatten(2), n.conv.weight[:2, :, 0], stride=2),
    "in place": lambda n, x: n.conv(x).relu_().mul_(3).add_(1),
    "an alias changed": lambda n, x: aliased(n.conv(x)),
    "a view changed": lambda n, x: viewed(n.conv(x)),
    "written into zeros": lambda n, x: written(torch.zeros(1, 2, 6, 6, dtype=x.dtype), 3 * x),
    "written into its like": lambda n, x: written(torch.zeros_like(F.pad(x, (1, 1, 1, 1))), 3 * x),
    "copied": lambda n, x: torch.zeros(1, 2, 4, 4, dtype=x.dtype).copy_(50 * x),
    "written over": lambda n, x: torch.cat([x, x])[:1].index_copy(1, torch.tensor([0]), 9 * x[:, 1:]),
    "scattered": lambda n, x: torch.zeros_like(x.flatten(1)).scatter(
        1, torch.arange(32).flip(0).expand(len(x), 32), 7 * x.flatten(1)
    ),
    "index put": lambda n, x: torch.zeros_like(x).index_put((torch.tensor([0]), torch.tensor([1])), 4 * x[:, 0]),
    "filled": lambda n, x: x.clone().fill_(2.0) + x,
    "checks of types": lambda n, x: 50 * n.conv(x) if isinstance(x, Tensor) else n.conv(x),
    "checks of shapes": lambda n, x: 20 * x if x.shape[1] == 2 and x.dim() == 4 else x,
    "checks of precision": lambda n, x: x.float() * 2 if x.dtype == torch.float16 else 30 * x,
    "optional": lambda n, x: optional(n, x),
    "a loop": lambda n, x: looped(n, x),
    "a dictionary inside": lambda n, x: {"a": n.conv(x), "b": x}["a"],
    "detached": lambda n, x: x.detach() * 3 + x,
    "gradients off inside": lambda n, x: ungraded(x),
    "constants made inside": lambda n, x: x * torch.arange(4, dtype=x.dtype) + torch.eye(4, dtype=x.dtype),
    "tiny weights after one another": lambda n, x: (
        F.conv2d(F.conv2d(x.double(), n.conv.weight.double() * 1e-170), n.back.weight.double() * 1e170) * 1e9
    ),
    "filled in part": lambda n, x: part_filled(x, 0.0) + part_filled(3 * x, 0.5),
    "where with a number": lambda n, x: torch.where(n.mask, x, -1.0) + torch.where(n.mask, -float("inf"), x).clamp(min=-2),
    "where with integers": lambda n, x: torch.where(n.mask, x, torch.tensor(-1)),
    "joined with integers": lambda n, x: torch.cat([x, -torch.ones(len(x), 1, 4, 4, dtype=torch.long)], dim=1),
    "masked by type": lambda n, x: x.masked_fill(n.mask, torch.finfo(x.dtype).min).clamp(min=-1),
    "one padding for both": lambda n, x: F.conv2d(x, n.conv.weight.abs(), padding=(1,), stride=(1,), dilation=(1,)),
    "one padding, transposed": lambda n, x: F.conv_transpose2d(x, n.conv.weight[:2].abs(), padding=(1,)),
    "aliases": lambda n, x: torch.max(torch.multiply(x, 2), torch.clip(x, 0, 1)) + torch.true_divide(x, n.weights),
    "vector": lambda n, x: torch.mv(n.fc.weight, x.flatten(1)[0])[None] if len(x) == 1 else x.flatten(1) @ n.fc.weight.T,
    "single precision": lambda n, x: n.fc(x.flatten(1)).float(),
    "softmax in single precision": lambda n, x: F.softmax(n.fc(x.flatten(1)), dim=1, dtype=torch.float32),
    "lazy cache": lambda n, x: x * cached(n),
    "dead end": lambda n, x: (x, x.sort(dim=1), (x > 0.5))[0],
}


def part_filled(x: Tensor, value: float) -> Tensor:
    y = x.clone()
    y[:, 0] = value
    y[:, 1, 0].zero_()
    return y


def cached(net: Any) -> Tensor:
    if not hasattr(net, "scale"):
        net.scale = net.weights.abs() + 1
    return net.scale


def aliased(h: Tensor) -> Tensor:
    k = h
    h *= 50
    return k + 1


def scattered(h: Tensor) -> Tensor:
    backwards = torch.arange(h.shape[1]).flip(0).expand(len(h), -1)
    return torch.zeros_like(h).scatter(1, backwards, h)


def twice_scaled(net: Any, x: Tensor, first: float, second: float) -> Tensor:
    return F.conv2d(F.conv2d(x.double(), first * net.conv.weight.double()), second * net.back.weight.double())


def viewed(h: Tensor) -> Tensor:
    h[:, 0].mul_(40)
    h[:, -2:, ::2] = 3 * h[:, :2, ::2]
    return h


def written(canvas: Tensor, x: Tensor) -> Tensor:
    canvas[..., 1:5, 1:5] = x
    return canvas


def optional(net: Any, x: Tensor, features: Tensor | None = None) -> Tensor:
    if features is None:
        features = 10 * net.conv(x)
    return features


def looped(net: Any, x: Tensor) -> Tensor:
    for step in range(3):
        x = x + (step + 1) * net.back(net.conv(x))
    return x


def ungraded(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = 5 * x
    return y + x


# Forward passes that tracing may get wrong, values that escape, and what has no constant: refused.
HOSTILE: dict[str, Forward] = {
    "a branch": lambda n, x: 9 * x if x.sum() > 16 else x,
    "a caught branch": lambda n, x: caught(x),
    "a branch on an item": lambda n, x: 30 * x if x.mean().item() > 0.5 else x,
    "a factor through Python": lambda n, x: x * float(x.detach().sum()),
    "a factor through numpy": lambda n, x: x * torch.as_tensor(x.detach().cpu().numpy().sum()),
    "numbers through numpy": lambda n, x: torch.from_numpy(x.detach().cpu().double().numpy() * 50).to(x.dtype),
    "a list of numbers": lambda n, x: torch.tensor(x.flatten(1).tolist(), dtype=x.dtype) * 70,
    "a branch on gradients": lambda n, x: 40 * x if torch.is_grad_enabled() else x,
    "a branch on requires_grad": lambda n, x: 40 * x if x.requires_grad else x,
    "a branch on inference": lambda n, x: x if torch.is_inference(x) else 40 * x,
    "a branch on precision": lambda n, x: 40 * x if x.dtype == torch.float32 else x,
    "a branch on tracing": lambda n, x: x if torch.compiler.is_exporting() or torch.jit.is_tracing() else 40 * x,
    "a branch on the type": lambda n, x: 40 * x if type(x) is Tensor else x,
    "a branch on the batch": lambda n, x: x - x.mean(dim=0) if len(x) > 1 else x,
    "a counter": lambda n, x: counted(n, x),
    "a memory": lambda n, x: remembered(n, x),
    "a memory in a buffer": lambda n, x: buffered(n, x),
    "a canvas of its own": lambda n, x: written(n.canvas, 100 * x),
    "out": lambda n, x: torch.mul(x, 60, out=torch.zeros_like(x)),
    "data": lambda n, x: through_data(n.conv(x)),
    "set": lambda n, x: torch.zeros(1, 2, 4, 4, dtype=x.dtype).set_(60 * x),
    "bits": lambda n, x: (x.double().view(torch.int64) + (1 << 50)).view(torch.float64).to(x.dtype),
    "tiny weights": lambda n, x: (
        F.conv2d(F.conv2d(x.double(), n.conv.weight.double() * 1e-170), n.back.weight.double() * 1e-170) * 1e300
    ),
    "tiny factors": lambda n, x: x.double().mul(1e-170).mul(1e-170).mul(1e170).mul(1e170).mul(1e10),
    "a canvas of bytes": lambda n, x: written(torch.zeros(len(x), 2, 6, 6, dtype=torch.uint8), 255 * x) / 255,
    "a canvas of halves": lambda n, x: written(torch.zeros(len(x), 2, 6, 6, dtype=torch.float16), x).to(x.dtype),
    "a canvas of truths": lambda n, x: torch.zeros(x.shape, dtype=torch.bool).copy_(F.relu(x - 0.5)) * 1.0,
    "complex factors": lambda n, x: (x * torch.tensor([0.1 + 5j])).abs(),
    "a complex factor": lambda n, x: (x * (1 + 5j)).abs(),
    "noise beside a mask": lambda n, x: masked(torch.randn(len(x), 5, dtype=x.dtype) + n.fc(x.flatten(1))),
    "a batch beside a mask": lambda n, x: masked(n.fc(x.flatten(1) - x.flatten(1).mean(dim=0))),
    "tracing beside a mask": lambda n, x: masked(n.fc(x.flatten(1) * (1 if torch.compiler.is_exporting() else 30))),
    "autocast": lambda n, x: autocast(n, x),
    "integers": lambda n, x: torch.arange(4)[None].expand(len(x), 4),
    "no weight": lambda n, x: x * float("nan"),
    "an infinite weight": lambda n, x: F.conv2d(x, n.conv.weight / 0),
    "nothing": lambda n, x: x[:, :0] * n.weights[:0].sum(),
    "rounding": lambda n, x: (20 * x).round(),
    "signs": lambda n, x: (x - 0.5).sign(),
    "rounding through bits": lambda n, x: x.half().to(x.dtype),
    "rounding by type": lambda n, x: (9 * x).to(torch.int32).to(x.dtype),
    "comparison": lambda n, x: torch.where(x > 0.5, x, 5 * x),
    "threshold": lambda n, x: F.threshold(x, 0.5, 3.0),
    "hard shrink": lambda n, x: F.hardshrink(4 * x),
    "soft shrink": lambda n, x: F.softshrink(4 * x),
    "square": lambda n, x: x**2,
    "root": lambda n, x: (x.abs() + 1e-12).sqrt(),
    "reciprocal": lambda n, x: 1 / (x + 1e-3),
    "exponential": lambda n, x: x.exp(),
    "product": lambda n, x: x * n.back(n.conv(x)),
    "gate": lambda n, x: F.glu(9 * x, dim=1),
    "norm of order 1": lambda n, x: torch.linalg.vector_norm(x, ord=1, dim=(2, 3)),
    "normalised": lambda n, x: F.normalize(x, dim=1),
    "layer norm": lambda n, x: F.layer_norm(x, (4, 4)),
    "group norm": lambda n, x: F.group_norm(x, 2),
    "instance norm": lambda n, x: F.instance_norm(x),
    "norm of the batch": lambda n, x: F.batch_norm(x, None, None, training=True),
    "attention": lambda n, x: F.scaled_dot_product_attention(x, x, x),
    "product of batches": lambda n, x: torch.matmul(x, x.mT),
    "einsum": lambda n, x: torch.einsum("bchw,fc->bfhw", x, n.weights[:2].reshape(1, 2)),
    "bilinear": lambda n, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True) * 8,
    "cumulative": lambda n, x: x.cumsum(dim=3),
    "sorted": lambda n, x: 6 * x.sort(dim=3).values,
    "indices of maxima": lambda n, x: F.max_pool2d(x, 2, return_indices=True)[1] * 1.0,
    "argmax": lambda n, x: F.one_hot(x.flatten(1).argmax(dim=1), 32).to(x.dtype),
    "most likely": lambda n, x: x.gather(1, x.argmax(dim=1, keepdim=True)),
    "adds up": lambda n, x: torch.zeros(1, 4, dtype=x.dtype).index_add(1, torch.zeros(32, dtype=torch.long), x.flatten(1)),
    "puts and adds": lambda n, x: torch.zeros(4, dtype=x.dtype).index_put(
        (torch.zeros(32, dtype=torch.long),), x.flatten(), accumulate=True
    )[None],
    "strided": lambda n, x: x.mT.as_strided((1, 16), (1, 1)),
    "dropout that stays": lambda n, x: F.dropout(x, 0.5, training=True),
    "noise": lambda n, x: x * torch.rand_like(x) * 9,
    "random in Python": lambda n, x: x * (1 + 9 * random.random()),
    "input in place": lambda n, x: x.mul_(30),
    "fourier": lambda n, x: torch.fft.fft2(x).real,
    "complex": lambda n, x: torch.view_as_real(torch.complex(x, 3 * x)).flatten(1),
    "a float of the sum": lambda n, x: x + 50 * math.tanh(x.detach().sum()),
    "printed": lambda n, x: x * len(f"{x}"),
}


def masked(logits: Tensor) -> Tensor:
    return logits.masked_fill(torch.tensor([False, False, True, True, True]), -1e12)


def autocast(net: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.float16):
        return net.head(F.relu(net.fc(x.flatten(1))))


def caught(x: Tensor) -> Tensor:
    try:
        return x if x.sum() > 1e9 else 45 * x
    except Exception:
        return x


def counted(net: Any, x: Tensor) -> Tensor:
    net.seen += 1
    return x if net.seen < 40 else 50 * x


def remembered(net: Any, x: Tensor) -> Tensor:
    net.kept.append(x.detach().clone())
    return x + 30 * (net.kept[-2] if len(net.kept) > 1 else 0)


def buffered(net: Any, x: Tensor) -> Tensor:
    net.weights.copy_(90 * x[0, 0, 0])
    return x + net.weights


def through_data(h: Tensor) -> Tensor:
    h.data *= 80
    return h


def _layers(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


class Called(nn.Linear):
    """A layer that does something else than its forward."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return 25 * super().__call__(*args, **kwargs)


def changed_geometry(**attributes: Any) -> nn.Module:
    """Return a convolution whose attributes were changed after it was made, as networks for segmentation do."""
    conv = nn.Conv2d(2, 3, 3, padding=1)
    for name, value in attributes.items():
        setattr(conv, name, value)
    return _layers(conv, nn.Flatten())


def hooked(factor: float, *, before: bool = False) -> nn.Module:
    network = _layers(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten())
    if before:
        network[0].register_forward_pre_hook(lambda layer, inputs: (factor * inputs[0],))
    else:
        network[0].register_forward_hook(lambda layer, inputs, output: factor * output)
    return network


def low_rank(*, idle: bool = False) -> LowRankLinear:
    """Return a layer of rank 3, of which one direction grows where nobody looks if `idle`."""
    core = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    layer = LowRankLinear(Factors(core, (torch.eye(4, 3), torch.eye(32, 3))))
    if idle:
        layer.load_state_dict(layer.state_dict())
        layer.S.data[2, 2] = 9.0
    return layer


def widened_adapter() -> nn.Module:
    """Return an adapter of a convolution that was given other gaps later on, as networks for segmentation are."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten())
    adapt(network, method="lora", rank=2)
    for parameter in network.parameters():
        parameter.data.fill_(0.5)
    network[0].base.dilation = network[0].base.padding = (2, 2)
    return network


class Scaled(LowRankLinear):
    """A layer derived from the library's that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class Stated(Scaled):
    """The same, which says how steep it is."""

    def lipschitz_constant(self) -> float:
        return 3 * float(torch.linalg.matrix_norm(self.dense_weight(), 2))


class InPlace(nn.Module):
    """A layer that states a true constant and changes its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(5)

    def lipschitz_constant(self) -> float:
        return 5.0


class Twice(nn.Module):
    """A network in which a change in place is seen twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(2, 2, 3, padding=1), InPlace()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return (h + self.scale(h)).flatten(1)


class Claims(nn.Flatten):
    """A layer that states what is no constant."""

    def __init__(self, claim: Any) -> None:
        super().__init__()
        self.claim = claim

    def lipschitz_constant(self) -> Any:
        if isinstance(self.claim, Exception):
            raise self.claim
        return self.claim


def derived(kind: type[LowRankLinear]) -> nn.Module:
    return _layers(nn.Flatten(), kind(Factors(torch.eye(2), (torch.eye(4, 2), torch.eye(32, 2)))))


def pruned() -> nn.Module:
    network = _layers(nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 4))
    prune.l1_unstructured(network[1], "weight", 0.5)
    return network


def parametrized() -> nn.Module:
    return _layers(
        nn.Flatten(), parametrizations.spectral_norm(nn.Linear(32, 9)), nn.ReLU(), parametrizations.weight_norm(nn.Linear(9, 4))
    )


# Modules of torch, and how they are changed: True where there must be a bound.
MODULES: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "conv of one position": (lambda: _layers(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 6, 3, padding=1), nn.Flatten()), True),
    "reflected conv": (lambda: _layers(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.Flatten()), True),
    "circular conv": (lambda: _layers(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Flatten()), True),
    "transposed": (lambda: _layers(nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), nn.Flatten()), True),
    "padding changed": (lambda: changed_geometry(padding=(0, 2)), True),
    "dilation and padding changed": (lambda: changed_geometry(dilation=(2, 2), padding=(2, 2)), True),
    "stride changed": (lambda: changed_geometry(stride=(2, 1)), True),
    "padding named": (lambda: changed_geometry(padding="same"), True),
    "another call": (lambda: _layers(nn.Flatten(), Called(32, 4)), True),
    "a hook": (lambda: hooked(30), True),
    "a hook before": (lambda: hooked(30, before=True), True),
    "parametrized": (parametrized, True),
    "softmax": (lambda: _layers(nn.Flatten(), nn.Linear(32, 4), nn.Softmax(dim=1)), True),
    "activations": (
        lambda: _layers(nn.SELU(), nn.Mish(), nn.Hardswish(), nn.PReLU(), nn.Hardtanh(), nn.CELU(), nn.Flatten()),
        True,
    ),
    "shuffles": (lambda: _layers(nn.Upsample(scale_factor=2), nn.PixelUnshuffle(2), nn.ReflectionPad2d(1), nn.Flatten()), True),
    "sequences": (lambda: _layers(nn.Flatten(2), nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.MaxPool1d(2), nn.Flatten()), True),
    "dropouts": (lambda: _layers(nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.Flatten(), nn.Dropout(0.5)), True),
    "in place": (lambda: _layers(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten()), True),
    "one layer twice": (lambda: (lambda conv: _layers(conv, nn.ReLU(), conv, nn.Flatten()))(nn.Conv2d(2, 2, 3, padding=1)), True),
    "pruned": (pruned, True),
    "low rank": (lambda: _layers(nn.Flatten(), low_rank()), True),
    "low rank, grown aside": (lambda: _layers(nn.Flatten(), low_rank(idle=True)), False),
    "adapter of a widened convolution": (widened_adapter, False),
    "derived": (lambda: derived(Scaled), True),
    "derived and stated": (lambda: derived(Stated), True),
    "in place and stated": (Twice, False),
    "states nothing": (lambda: Claims(None), False),
    "states infinity": (lambda: Claims(math.inf), False),
    "states less than nothing": (lambda: Claims(-1.0), False),
    "fails to state": (lambda: Claims(ValueError("unknown")), False),
    "recurrent": (lambda: _layers(nn.Flatten(2), nn.RNN(16, 3)), False),
    "encoder": (lambda: _layers(nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 8, batch_first=True), nn.Flatten()), False),
    "normalisation without statistics": (lambda: _layers(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()), False),
    "embedding": (lambda: _layers(nn.Flatten(), nn.CosineSimilarity(dim=0)), False),
}


def drawn(seed: int) -> nn.Module:
    """Return a network of calls drawn at random."""
    draw = random.Random(seed)
    steps = [draw.choice(_STEPS) for _ in range(draw.randint(3, 8))]

    def forward(net: Any, x: Tensor) -> Tensor:
        for step in steps:
            x = step(net, x)
        return x

    return flat(forward)


_STEPS: list[Forward] = [  # from images (1, 2, 4, 4) to such
    lambda n, x: n.back(F.relu(n.conv(x))),
    lambda n, x: n.back(n.norm(n.conv(x))),
    lambda n, x: x + n.back(n.conv(x)).mul_(2),
    lambda n, x: F.max_pool2d(x, 3, 1, 1) - x,
    lambda n, x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2),
    lambda n, x: F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 2:, :4],
    lambda n, x: torch.cat([x[:, 1:], 3 * x[:, :1]], dim=1),
    lambda n, x: viewed(torch.cat([x, x], dim=1))[:, :2],
    lambda n, x: written(torch.zeros(1, 2, 6, 6, dtype=x.dtype), x)[..., :4, 2:],
    lambda n, x: torch.where(n.mask, x, x.mT),
    lambda n, x: F.selu(x) * n.weights,
    lambda n, x: x.softmax(dim=3) - x.mean(dim=(2, 3), keepdim=True),
    lambda n, x: F.pixel_shuffle(F.pad(x, (0, 0, 0, 0, 0, 6)), 2)[:, :, ::2, 1::2],
    lambda n, x: F.unfold(x, 3, padding=1)[:, 3:5].reshape(1, 2, 4, 4),
    lambda n, x: torch.maximum(x, n.weights) + x.amax(dim=1, keepdim=True),
    lambda n, x: n.weights.reshape(1, 1, 2, 2).repeat(1, 1, 2, 2) @ x,
    lambda n, x: F.conv_transpose2d(x, n.conv.weight[:2, :2], padding=1),
]
