"""Callbacks put a monitor into other packages' training loops, which are imported only here."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from robust_lowrank.conditioning.monitor import Monitor
from robust_lowrank.errors import UserError
from robust_lowrank.records import replacing

if TYPE_CHECKING:
    from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
    from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]


def hugging_face(monitor: Monitor) -> "TrainerCallback":
    """Return a callback for `transformers.Trainer` that records after its optimizer steps and closes the writers at the end.

    Example:
        >>> Trainer(model, callbacks=[hugging_face(Monitor(model, every=10))])  # doctest: +SKIP

    A training that starts from a checkpoint goes on in the same history, rotations included, for which `monitor.safetensors` lies
    in it; one that starts anew begins it anew. Only the main process records.

    Raises:
        UserError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("transformers is not installed: pip install transformers") from error

    class MonitorCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not state.is_world_process_zero:
                return
            if (path := _checkpoint(args, state)).is_file():
                monitor.load_state_dict(_load(path))
            monitor.rewind(state.global_step)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                _save(_checkpoint(args, state), monitor.state_dict())
                monitor.flush()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                monitor.step(state.global_step)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                monitor.close()

    return MonitorCallback()


def lightning(monitor: Monitor) -> "Callback":
    """Return a callback for Lightning's `Trainer` that records after its optimizer steps and closes the writers at the end.

    Example:
        >>> Trainer(callbacks=[lightning(Monitor(model, every=10))])  # doctest: +SKIP

    A training that starts from a checkpoint goes on in the same history, rotations included; one that starts anew begins it anew.
    Only the main process records.

    Raises:
        UserError: neither lightning nor pytorch-lightning is installed.
    """
    try:
        from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
    except ImportError:
        try:
            from pytorch_lightning import Callback  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError("Lightning is not installed: pip install lightning") from error

    class MonitorCallback(Callback):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                monitor.rewind(trainer.global_step)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.is_global_zero:
                monitor.step(trainer.global_step)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                monitor.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            if trainer.is_global_zero:
                monitor.close()

        def state_dict(self) -> dict[str, Any]:
            return monitor.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            monitor.load_state_dict(state_dict)

    return MonitorCallback()


def _checkpoint(args: Any, state: Any) -> Path:
    """Return the file of a monitor's state in the checkpoint that transformers writes at a step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "monitor.safetensors"


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write what `Monitor.state_dict` returned: the bases as tensors, the rest as JSON."""
    from safetensors.torch import save_file

    bases = {f"{name}/{i}": basis.contiguous() for name, each in state["bases"].items() for i, basis in enumerate(each)}
    rest = {name: value for name, value in state.items() if name != "bases"}
    with replacing(path) as temporary:
        save_file(bases, temporary, {"state": json.dumps(rest)})


def _load(path: Path) -> dict[str, Any]:
    """Read what `_save` has written.

    Raises:
        UserError: it is something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys(), key=_place)}
            state = json.loads(file.metadata()["state"])
        state["beyond"] = [tuple(pair) for pair in state["beyond"]]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as the state of a monitor: {error}") from error
    bases: dict[str, list[Tensor]] = {}
    for name, basis in tensors.items():
        bases.setdefault(_place(name)[0], []).append(basis)
    return state | {"bases": bases}


def _place(name: str) -> tuple[str, int]:
    layer, _, number = name.rpartition("/")
    return layer, int(number)
