"""The monitor in other people's loops: with their packages where they are installed, and in loops that call as they do."""

import gc
import importlib.util
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robust_lowrank import LowRankOptimizer, MemoryWriter, Monitor, ParquetWriter, compress
from robust_lowrank.conditioning import callbacks
from robust_lowrank.errors import UserError
from robust_lowrank.records import read_frame


def installed(*names: str) -> bool:
    return any(importlib.util.find_spec(name) is not None for name in names)


def without(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not installed(*names), reason=f"NOT TESTED with the real package: needs {names[0]}")


class Network(nn.Module):
    """A network as transformers calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        compress(self.body, method="condlr", rank=4, exclude=["2"])

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def examples() -> list[dict[str, torch.Tensor]]:
    return [{"x": torch.rand(8), "labels": torch.tensor(i % 3)} for i in range(12)]


def steps(memory: MemoryWriter) -> list[int]:
    return sorted(set(memory.frame()["step"]))


class Closing(MemoryWriter):
    closed = False

    def close(self) -> None:
        self.closed = True


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **names: type) -> None:
    module = types.ModuleType(name)
    vars(module).update(names)
    for parent in name.split(".")[:-1]:
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("main", [True, False])
def test_a_loop_that_calls_as_transformers_does(main: bool, first: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, "transformers", TrainerCallback=type("TrainerCallback", (), {}))
    model, memory = Network(), Closing()
    callback = callbacks.hugging_face(Monitor(model, every=2, writers=[memory]))
    assert isinstance(callback, sys.modules["transformers"].TrainerCallback)
    optimizer = LowRankOptimizer(model, torch.optim.SGD, lr=0.1)
    state, args = SimpleNamespace(global_step=first, is_world_process_zero=main), SimpleNamespace(output_dir=str(tmp_path))
    control = object()
    batch = {key: torch.stack([example[key] for example in examples()]) for key in ("x", "labels")}
    callback.on_train_begin(args, state, control, model=model)
    for _ in range(first, 6):
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        optimizer.step()
        state.global_step += 1
        callback.on_step_end(args, state, control, model=model, optimizer=optimizer)
    callback.on_train_end(args, state, control, model=model)
    assert steps(memory) == ([step for step in (2, 4, 6) if step > first] if main else [])
    assert memory.closed == main


def moved(model: nn.Module) -> None:
    with torch.no_grad():
        for basis in model.body[0].bases():
            basis.copy_(torch.linalg.qr(basis + 0.1 * torch.randn_like(basis)).Q)


def rotations(memory: MemoryWriter) -> list[float]:
    return memory.frame()["rotation_u"].tolist()


def test_rotations_go_on_after_transformers_resumes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, "transformers", TrainerCallback=type("TrainerCallback", (), {}))
    model, args, control = Network(), SimpleNamespace(output_dir=str(tmp_path)), object()
    (tmp_path / "checkpoint-2").mkdir()
    state = SimpleNamespace(global_step=2, is_world_process_zero=True)
    callback = callbacks.hugging_face(Monitor(model, every=1))
    callback.on_step_end(args, state, control)
    callback.on_save(args, state, control)
    moved(model)
    memory = MemoryWriter()
    resumed = callbacks.hugging_face(Monitor(model, every=1, writers=[memory]))
    resumed.on_train_begin(args, state, control)
    state.global_step = 3
    resumed.on_step_end(args, state, control)
    assert steps(memory) == [3] and rotations(memory)[0] > 0.01
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3/monitor.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read as the state of a monitor"):
        callbacks.hugging_face(Monitor(model)).on_train_begin(args, state, control)


def test_lightning_keeps_the_rows_of_a_loop_that_dies_and_its_rotations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, "lightning.pytorch", Callback=type("Callback", (), {}))
    model, path = Network(), tmp_path / "monitor.parquet"
    trainer = SimpleNamespace(global_step=1, is_global_zero=True)
    callback = callbacks.lightning(Monitor(model, every=1, writers=[ParquetWriter(path)]))
    callback.on_train_batch_end(trainer, model, None, None, 0)
    kept = callback.state_dict()
    callback.on_exception(trainer, model, RuntimeError("out of memory"))
    assert len(read_frame(path)) == 1
    moved(model)
    memory = MemoryWriter()
    resumed = callbacks.lightning(Monitor(model, every=1, writers=[memory]))
    resumed.load_state_dict(kept)
    resumed.on_train_start(trainer, model)
    trainer.global_step = 2
    resumed.on_train_batch_end(trainer, model, None, None, 1)
    assert steps(memory) == [2] and rotations(memory)[0] > 0.01


@pytest.mark.slow
def test_a_table_is_written_when_a_loop_dies(tmp_path: Path) -> None:
    """An error in a loop without a hook for it: the rows are there as the process ends, and as the writer goes."""
    path = tmp_path / "monitor.parquet"
    code = (
        "from torch import nn; from robust_lowrank import Monitor, ParquetWriter, compress; net = nn.Sequential(nn.Linear(8, 8))\n"
        f"compress(net, method='condlr', rank=4); monitor = Monitor(net, every=1, writers=[ParquetWriter({str(path)!r})])\n"
        "for step in range(3):\n    monitor.step()\nraise RuntimeError('died')"
    )
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert died.returncode == 1 and "died" in died.stderr
    assert read_frame(path)["step"].tolist() == [1, 2, 3]
    writer = ParquetWriter(path)
    writer.rewind(2)
    writer.write(writer.frame().head(1).to_dict("records"))
    del writer
    gc.collect()
    assert read_frame(path)["step"].tolist() == [1, 2, 1]


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_a_loop_that_calls_as_lightning_does_with_accumulated_batches(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if package == "pytorch_lightning":
        monkeypatch.setitem(sys.modules, "lightning", None)
        monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    stand_in(monkeypatch, package, Callback=type("Callback", (), {}))
    model, memory = Network(), Closing()
    callback = callbacks.lightning(Monitor(model, every=2, writers=[memory]))
    trainer = SimpleNamespace(global_step=0, is_global_zero=True)
    callback.on_train_start(trainer, model)
    for index in range(12):
        trainer.global_step += index % 2  # the optimizer steps on every other batch
        callback.on_train_batch_end(trainer, model, None, None, index)
    callback.on_train_end(trainer, model)
    assert steps(memory) == [2, 4, 6]
    assert memory.closed


@pytest.mark.parametrize(
    ("make", "names", "message"),
    [
        (callbacks.hugging_face, ("transformers",), "pip install transformers"),
        (callbacks.lightning, ("lightning", "lightning.pytorch", "pytorch_lightning"), "pip install lightning"),
    ],
)
def test_a_missing_package_is_named(make, names: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=message):
        make(Monitor(Network()))


@without("transformers")
def test_the_trainer_of_transformers(tmp_path) -> None:
    from transformers import Trainer, TrainingArguments  # pyright: ignore

    model, memory = Network(), Closing()
    args = TrainingArguments(
        str(tmp_path), max_steps=6, per_device_train_batch_size=4, report_to=[], use_cpu=True, save_strategy="no"
    )
    optimizer = LowRankOptimizer(model, torch.optim.SGD, lr=0.1)
    callback = callbacks.hugging_face(Monitor(model, every=2, writers=[memory]))
    Trainer(model, args, train_dataset=examples(), optimizers=(optimizer, None), callbacks=[callback]).train()
    assert steps(memory) == [2, 4, 6]
    assert memory.closed


@without("lightning", "pytorch_lightning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
def test_the_trainer_of_lightning(tmp_path) -> None:
    try:
        import lightning.pytorch as pl  # pyright: ignore
    except ImportError:
        import pytorch_lightning as pl  # pyright: ignore

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def training_step(self, batch, index):
            return self.network(**batch)["loss"]

        def configure_optimizers(self):
            return LowRankOptimizer(self.network, torch.optim.SGD, lr=0.1)

    module, memory = Module(), Closing()
    callback = callbacks.lightning(Monitor(module, every=2, writers=[memory]))
    loader = torch.utils.data.DataLoader(examples(), batch_size=2)  # pyright: ignore
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    pl.Trainer(max_steps=6, callbacks=[callback], default_root_dir=str(tmp_path), **options).fit(module, loader)
    assert steps(memory) == [2, 4, 6]
    assert memory.closed
