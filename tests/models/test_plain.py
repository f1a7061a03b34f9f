"""Ordinary networks are plain programs: what is written anew computes what was exported."""

import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank.exporting.tracing import trace
from robust_lowrank.models.operations import ATEN, is_known, unknown_operations
from robust_lowrank.models.plain import plain_program
from robust_lowrank.models.programs import load_exported
from robust_lowrank.models.standalone import load_standalone

CPU = torch.device("cpu")


class Block(nn.Module):
    """Attention with a table of positions, a part without gradients, one in another precision, and a weight that is used twice."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.twice = nn.Linear(8, 8)
        self.register_buffer("positions", torch.randn(1, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2).repeat(1, 1, 8)[:, :4] + self.positions
        x = x + self.attend(self.norm(x), x, x, need_weights=False)[0]
        with torch.no_grad():
            scale = x.abs().amax(dim=(1, 2), keepdim=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            x = self.twice(nn.functional.gelu(self.twice(x / scale)))
        parts = x.chunk(2, dim=1)
        return torch.einsum("bij,bij->bj", *parts)


NETWORKS = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 2, 2),
        nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(2, 3),
    ),
    "attention": Block,
    "resized": lambda: nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.GroupNorm(1, 1), nn.Flatten(), nn.Linear(64, 3)
    ),
    "double": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).to(torch.float64),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORKS)
def test_ordinary_networks_need_no_trust(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    x = torch.rand(5, 1, 4, 4, dtype=next(model.parameters()).dtype)
    program = trace(model, x)
    assert unknown_operations(program.graph_module) == []
    torch.export.save(program, path := tmp_path / "net.pt2")
    for read in (load_exported, load_standalone):
        torch.testing.assert_close(read(path, CPU)(x), model(x))


def test_what_is_written_anew_holds_no_notes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(trace(model, torch.rand(3, 1, 2, 2)), path := tmp_path / "net.pt2")
    with zipfile.ZipFile(path) as theirs, zipfile.ZipFile(plain_program(path)) as ours:
        said = [
            next(file.read(name) for name in file.namelist() if name.endswith("models/model.json")).decode()
            for file in (theirs, ours)
        ]
    assert all("torch.ops.aten.linear.default" in each for each in said)
    assert "nn_module_stack" in said[0]
    assert "nn_module_stack" not in said[1]


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default", "torch.ops.aten.relu.overloads", "torch.ops.aten.add", "torch.ops.aten.add.out.x",
        "torch.ops.aten.set_.source_Storage", "torch.ops.prim.device.default", "torch.ops.load_library", "torch.ops.mine.a.default",
        "_operator.attrgetter", "_operator.methodcaller", "torch.load", "math", "#mine:op", "torch.ops.higher_order.while_loop",
        "torch.ops.aten.resize_.default", "torch.ops.aten.as_strided.default",
    ],
)  # fmt: skip
def test_operations_that_do_more_are_not_known(target: str) -> None:
    assert not is_known(target)


def test_known_operations_are_named_as_torch_names_them() -> None:
    """A few are of some versions of torch alone."""
    missing = {name for name in ATEN if not hasattr(torch.ops.aten, name)}
    assert missing <= {"rms_norm"}, missing


def test_no_known_operation_takes_what_could_be_a_file_or_code() -> None:
    known = "mode reduction equation padding approximate rounding_mode indexing interpolation ord norm pad_mode assert_msg driver"
    strings = {*known.split(), "reduce", "interpolation_mode", "side"}
    for name in ATEN:
        packet = getattr(torch.ops.aten, name, None)
        schemas = [] if packet is None else [getattr(packet, overload)._schema for overload in packet.overloads()]
        for schema in (schema for schema in schemas if any("Tensor" in str(argument.type) for argument in schema.arguments)):
            for argument in schema.arguments:
                kind = str(argument.type)
                assert "str" not in kind or argument.name in strings, (name, argument.name)
                assert kind != "Any", name
                assert not any(word in kind for word in ("Storage", "Future", "Stream", "Class", "__torch__")), (name, kind)
