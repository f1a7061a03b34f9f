"""Run directories of networks that loops of one's own train."""

import contextlib
import math
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robust_lowrank as rlr
from robust_lowrank import checkpoint, conditioning, data, records, training
from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.jobs import subjects
from robust_lowrank.records import RunFiles

X = torch.rand(96, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = X.flatten(1)[:, :3].argmax(1)
TEST = (X[64:], Y[64:])


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3))


def compressed(method: Any = "condlr", rank: float = 0.5) -> nn.Module:
    torch.manual_seed(0)
    model = network()
    rlr.compress(model, method=method, rank=rank, exclude=["4"])
    return model


def optimizer_of(model: nn.Module, **options: Any) -> rlr.LowRankOptimizer:
    return rlr.LowRankOptimizer(model, torch.optim.Adam, lr=0.01, **options)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """Train for two steps."""
    loss = torch.zeros(())
    for index in torch.randperm(64).split(32):

        def closure(index: Tensor = index) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X[index]), Y[index])
            loss.backward()
            return loss

        loss = optimizer.step(closure)
    return loss


def test_a_training_is_the_same_with_and_without_a_recorder(tmp_path: Path) -> None:
    states = []
    for recorded in (False, True):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        model = compressed(rlr.DLRT(tol=0.3), rank=1.0)
        optimizer = optimizer_of(model, step="amortised", window=2)
        model.get_submodule("4").eval()

        def epochs(run: Any, model: nn.Module = model, optimizer: Any = optimizer) -> None:
            for _ in range(2):
                loss = steps(model, optimizer)
                if run is not None:
                    run.epoch(loss=loss)

        if recorded:
            with rlr.record(tmp_path / "run", model, optimizer, data=TEST) as run:
                epochs(run)
        else:
            epochs(None)
        modes = [module.training for module in model.modules()]
        gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        numbers = (torch.rand(1).item(), random.random(), np.random.random())  # noqa: NPY002
        exact = (checkpoint.digest(model), modes, numbers)
        states.append((exact, gradients, optimizer.state_dict()["state"]))
    assert states[0][0] == states[1][0]
    torch.testing.assert_close(states[0][1:], states[1][1:], rtol=0, atol=0)


def test_a_run_is_read_without_the_code_of_its_loop(tmp_path: Path) -> None:
    model = compressed()
    optimizer = optimizer_of(model)
    with rlr.record(tmp_path / "run", model, optimizer, data=TEST, label="Mine", seed=3) as run:
        assert run.epochs_done == 0
        for _ in range(2):
            run.epoch(loss=steps(model, optimizer), accuracy=0.5, validation_accuracy=np.float32(0.25), margin=torch.tensor(2))
    read = records.read_run(tmp_path / "run")
    assert (read.record.status, read.record.epochs_done, read.record.label, read.record.seed) == ("complete", 2, "Mine", 3)
    assert (read.record.method, read.record.model, read.record.data) == ("condlr", "Sequential", "own examples")
    assert read.metrics[["epoch", "step", "lr", "train_accuracy", "validation_accuracy", "margin"]].values.tolist() == [
        [1, 2, 0.01, 0.5, 0.25, 2],
        [2, 4, 0.01, 0.5, 0.25, 2],
    ]
    assert read.record.seconds == pytest.approx(read.metrics["seconds"].sum())
    assert sorted(set(read.spectra["epoch"])) == [0, 1, 2]
    assert read.operators is not None
    files = RunFiles(tmp_path / "run")
    assert not records.broken_seals(files.record, read.record, files.beside)

    kept, model = subjects.network(tmp_path / "run"), model.eval()
    assert not any(isinstance(module, nn.Linear) for module in kept.modules())
    torch.testing.assert_close(kept(TEST[0]), model(TEST[0]))
    x = TEST[0].clone().requires_grad_()
    ours, theirs = (torch.autograd.grad(each(x).square().sum(), x)[0] for each in (kept, model))
    torch.testing.assert_close(ours, theirs)
    assert read.record.test_accuracy == float((model(TEST[0]).argmax(1) == TEST[1]).float().mean())
    bounds = [conditioning.lipschitz(each, (1, 4, 4)) for each in (kept, model)]
    assert bounds[0].bound == pytest.approx(bounds[1].bound, rel=1e-5)
    assert bounds[0].layers["layer"].tolist() == ["1", "4"]
    subject = subjects.trained(tmp_path / "run", subjects.OWN_EXAMPLES)
    assert torch.equal(subject.x, TEST[0])
    with pytest.raises(UserError, match="keeps the examples that it is tested on"):
        subjects.trained(tmp_path / "run", training.DataConfig())


def test_an_interrupted_run_goes_on_where_its_network_is(tmp_path: Path) -> None:
    model = compressed()
    optimizer, states = optimizer_of(model), []
    memory = rlr.MemoryWriter()
    with (
        pytest.raises(KeyError, match="stop"),
        rlr.Monitor(model, every=1, writers=[memory]).attach(optimizer) as monitor,
        rlr.record(tmp_path / "run", model, optimizer, data=TEST, monitor=monitor) as run,
    ):
        for _ in range(3):
            steps(model, optimizer)
            run.epoch()
            states.append(checkpoint.digest(model))
            checkpoint.save(model, tmp_path / f"{run.epochs_done}.safetensors")
        steps(model, optimizer)
        raise KeyError("stop")
    assert monitor.writers == (memory,)
    files = RunFiles(tmp_path / "run")
    stopped = records.read_run(tmp_path / "run")
    assert (stopped.record.status, stopped.record.epochs_done) == ("running", 3)
    assert not records.broken_seals(files.record, stopped.record, files.beside)
    assert checkpoint.digest(rlr.load(network(), files.weights)) == states[-1]
    assert records.read_frame(files.monitor)["step"].max() == 6
    with pytest.raises(UserError, match=r"not complete: .* after epoch 3; open it again with rlr.record"):
        subjects.stored_config(tmp_path / "run")

    def reopen(**options: Any) -> Any:
        return rlr.record(tmp_path / "run", model, optimizer, data=TEST, **options)

    with pytest.raises(UserError, match="after epoch 3, and the network has the weights of none"), reopen():
        pass
    rlr.load(model, tmp_path / "3.safetensors")
    with pytest.raises(KeyError), reopen() as run:
        assert run.epochs_done == 3
        raise KeyError
    rlr.load(model, tmp_path / "2.safetensors")
    monitor = rlr.Monitor(model, every=1, writers=[memory]).attach(optimizer)
    with pytest.warns(UserWarning, match="after epoch 2 of 3"), reopen(monitor=monitor) as run:
        assert (run.epochs_done, monitor.steps) == (2, 4)
        steps(model, optimizer)
        run.epoch()
    read = records.read_run(tmp_path / "run")
    assert read.metrics["step"].tolist() == [2, 4, 6]
    assert sorted(set(records.read_frame(files.monitor)["step"])) == [1, 2, 3, 4, 5, 6]
    assert read.record.seconds == pytest.approx(read.metrics["seconds"].sum())
    with pytest.raises(UserError, match="a run that is complete"), reopen():
        pass


def test_a_loop_that_is_started_again_begins_its_run_anew(tmp_path: Path) -> None:
    for attempt in range(2):
        model = compressed()
        optimizer = optimizer_of(model)
        with warned(attempt), stopped(attempt == 0), rlr.record(tmp_path / "run", model, optimizer, data=TEST) as run:
            assert run.epochs_done == 0
            steps(model, optimizer)
            run.epoch(loss=attempt)
            if attempt == 0:
                raise KeyboardInterrupt
    assert records.read_run(tmp_path / "run").metrics["train_loss"].tolist() == [1]


def warned(attempt: int) -> Any:
    return pytest.warns(UserWarning, match="after epoch 0 of 1") if attempt else contextlib.nullcontext()


def stopped(expected: bool) -> Any:
    return pytest.raises(KeyboardInterrupt) if expected else contextlib.nullcontext()


def test_a_dense_network_without_an_optimizer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = network()
    with rlr.record(tmp_path / "run", model, data=TEST) as run:
        run.epoch(lr=0.1, step=7)
        run.epoch()
    read = records.read_run(tmp_path / "run")
    assert (read.record.label, read.record.method, read.record.config["method"]) == ("Dense", "dense", {"name": "dense"})
    assert read.metrics["lr"].tolist()[0] == 0.1
    assert math.isnan(read.metrics["step"].tolist()[1])
    assert read.record.epochs_done == 2


def test_what_comes_after_the_last_epoch_belongs_to_it(tmp_path: Path) -> None:
    model = compressed(rlr.DLRT(tol=0.3), rank=1.0)
    optimizer = optimizer_of(model)
    with rlr.record(tmp_path / "run", model, optimizer, data=TEST) as run:
        steps(model, optimizer)
        run.epoch()
        optimizer.finish()
    read = records.read_run(tmp_path / "run")
    last = read.spectra.query("epoch == 1 and layer == '1'")
    assert last["rank"].tolist() == [model.get_submodule("1").rank]
    assert read.metrics["weights"].tolist() == [checkpoint.digest(model)]
    assert checkpoint.digest(rlr.load(network(), RunFiles(read.path).weights)) == checkpoint.digest(model)


def test_a_loop_that_records_no_epoch_is_one(tmp_path: Path) -> None:
    model = compressed()
    optimizer = optimizer_of(model)
    with rlr.record(tmp_path / "run", model, optimizer, data=TEST):
        steps(model, optimizer)
    with rlr.record(tmp_path / "given", model, data=TEST):
        pass
    assert records.read_run(tmp_path / "run").record.epochs_done == 1
    assert records.read_run(tmp_path / "given").record.epochs_done == 0


class Branching(nn.Module):
    """Takes a way that depends on its input, which torch.export cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(1)) if x.sum() > -1 else x.flatten(1)[:, :3]


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(**functions: object) -> None:
        module = types.ModuleType("loops_of_mine")
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return put


def test_a_network_that_cannot_be_exported_is_made_by_a_function(define: Callable[..., None], tmp_path: Path) -> None:
    define(net=Branching, other=network, scaled=lambda: nn.Sequential(Branching()))
    model = Branching()
    with pytest.raises(UserError, match=r"torch\.export cannot trace the network.*\n.*source='module:function'"):
        rlr.record(tmp_path / "run", model, data=TEST).__enter__()
    for source, message in {
        "loops_of_mine:other": "does not fit this network",
        "loops_of_mine:nothing": "has no function nothing",
    }.items():
        with pytest.raises(UserError, match=message):
            rlr.record(tmp_path / "run", model, data=TEST, source=source).__enter__()
    assert not (tmp_path / "run").exists()
    with rlr.record(tmp_path / "run", model, data=TEST, source="loops_of_mine:net") as run:
        run.epoch()
    assert not RunFiles(tmp_path / "run").program.exists()
    kept = subjects.network(tmp_path / "run", trust_code=True)
    assert isinstance(kept, Branching)
    assert torch.equal(kept(TEST[0]), model(TEST[0]))
    assert records.read_run(tmp_path / "run").record.model == "loops_of_mine:net"


def test_a_function_that_makes_another_network_of_these_weights_is_refused(define: Callable[..., None], tmp_path: Path) -> None:
    model = network()
    changed = network()
    changed[2] = nn.Tanh()
    define(net=lambda: changed)
    with pytest.raises(UserError, match="the weights of this one and other answers"):
        rlr.record(tmp_path / "run", model, data=TEST, source="loops_of_mine:net").__enter__()


@pytest.mark.parametrize("source", [None, "loops_of_mine:net"])
def test_networks_of_normalised_inputs(source: str | None, define: Callable[..., None], tmp_path: Path) -> None:
    define(net=network)
    model = compressed()
    with rlr.record(tmp_path / "run", model, data=TEST, source=source, mean=[0.5], std=[0.25]) as run:
        run.epoch()
    kept = subjects.network(tmp_path / "run", trust_code=source is not None)
    torch.testing.assert_close(kept(TEST[0]), model.eval()((TEST[0] - 0.5) / 0.25))
    read = records.read_run(tmp_path / "run")
    assert "1" in set(read.spectra["layer"])
    assert (read.record.config["mean"], read.record.config["std"]) == ([0.5], [0.25])
    rlr.load(network(), RunFiles(tmp_path / "run").weights)


def test_examples_of_bytes_and_examples_by_name(tmp_path: Path) -> None:
    bytes_ = (TEST[0] * 255).to(torch.uint8)
    with rlr.record(tmp_path / "bytes", network(), data=(bytes_, TEST[1].int())):
        pass
    x, y = training.read_examples(RunFiles(tmp_path / "bytes"))
    assert torch.equal(x, bytes_)
    assert y.dtype == torch.int64
    assert torch.equal(subjects.trained(tmp_path / "bytes", subjects.OWN_EXAMPLES).x, bytes_.float() / 255)
    digits = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with rlr.record(tmp_path / "named", digits, data="digits"):
        pass
    record, config = subjects.stored_config(tmp_path / "named")
    assert not RunFiles(tmp_path / "named").examples.exists()
    assert record.classes == list("0123456789")
    assert len(subjects.trained(tmp_path / "named", config.data).y) == len(data.load("digits").test_y)


def test_files_that_were_changed_are_refused(tmp_path: Path) -> None:
    for name in ("one", "other"):
        with rlr.record(tmp_path / name, network(), data=TEST):
            pass
    one, other = RunFiles(tmp_path / "one"), RunFiles(tmp_path / "other")
    own = one.program.read_bytes()
    one.program.write_bytes(other.program.read_bytes())
    with pytest.raises(UserError, match=r"is not the program that run.json names"):
        subjects.network(tmp_path / "one")
    one.program.write_bytes(own)
    one.examples.unlink()
    with pytest.raises(UserError, match=r"examples.safetensors is missing"):
        subjects.trained(tmp_path / "one", subjects.OWN_EXAMPLES)


def test_a_network_in_double_precision(tmp_path: Path) -> None:
    model = compressed().double()
    with rlr.record(tmp_path / "run", model, data=TEST) as run:
        run.epoch()
    x = TEST[0].double()
    torch.testing.assert_close(subjects.network(tmp_path / "run")(x), model.eval()(x))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"loss": "low"}, r"run.epoch\(train_loss=...\) is a str"),
        ({"margin": torch.ones(2)}, "is a Tensor, where one number"),
        ({"seconds": 1}, "fills seconds by itself"),
    ],
)
def test_numbers_that_are_none(numbers: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message), rlr.record(tmp_path / "run", network(), data=TEST) as run:
        run.epoch(**numbers)
    assert records.read_run(tmp_path / "run").record.epochs_done == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "digts"}, "did you mean 'digits'"),
        ({"data": TEST[0]}, "data is a Tensor: give a data set's name"),
        ({"data": (TEST[0].double(), TEST[1])}, "uint8 or float32 in"),
        ({"data": (TEST[0], TEST[1].float())}, "labels are integers"),
        ({"data": (TEST[0], TEST[1][:3])}, "one for each of 32 inputs"),
        ({"data": (TEST[0] * 2, TEST[1])}, r"inputs lie in \[0, 1\]"),
        ({"data": (TEST[0], TEST[1] + 5)}, "has the label"),
        ({"data": "digits"}, "cannot take inputs of shape"),
        ({"mean": [0.5]}, "mean and std go together"),
        ({"model": nn.Sequential(network(), nn.Softmax(1))}, "returns probabilities"),
        ({"model": nn.Flatten()}, "has no parameters"),
    ],
)
def test_arguments_that_are_wrong_leave_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"model": network(), "data": TEST} | options
    with pytest.raises(UserError, match=message):
        rlr.record(tmp_path / "run", **arguments).__enter__()
    assert not (tmp_path / "run").exists()


def test_directories_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for name in ("named", "dense"):
        with pytest.raises(KeyboardInterrupt), rlr.record(tmp_path / name, network(), data=TEST):
            raise KeyboardInterrupt
    with pytest.raises(UserError, match="tested on other examples"):
        rlr.record(tmp_path / "named", network(), data=(TEST[0][:8], TEST[1][:8])).__enter__()
    with pytest.raises(UserError, match=r"its method.name is 'dense', not"):
        rlr.record(tmp_path / "dense", compressed(), data=TEST).__enter__()
    trained = {"data": {"train_examples": 32, "test_examples": 20}, "training": {"epochs": 1, "batch_size": 32}}
    rlr.train(trained, tmp_path / "trained")
    for name, message in {"thesis": "not empty and not a run directory", "file": "is a file", "trained": "did not begin"}.items():
        with pytest.raises(UserError, match=message):
            rlr.record(tmp_path / name, network(), data=TEST).__enter__()


def test_weights_that_are_not_finite_are_not_recorded(tmp_path: Path) -> None:
    model = compressed()
    message = "epoch 2 at step nan: bias of layer '4' is not finite; .*run keeps epoch 1"
    with pytest.raises(TrainingError, match=message), rlr.record(tmp_path / "run", model, data=TEST) as run:
        run.epoch()
        nn.init.constant_(model.get_submodule("4").bias, math.nan)
        run.epoch()
    assert records.read_run(tmp_path / "run").record.epochs_done == 1
