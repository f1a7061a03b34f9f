"""Callbacks put a monitor into other packages' training loops, which are imported only here."""

from typing import TYPE_CHECKING, Any

from robust_lowrank.conditioning.monitor import Monitor
from robust_lowrank.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Callback  # pyright: ignore[reportMissingImports]
    from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]


def hugging_face(monitor: Monitor) -> "TrainerCallback":
    """Return a callback for `transformers.Trainer` that records after its optimizer steps and closes the writers at the end.

    Example:
        >>> Trainer(model, callbacks=[hugging_face(Monitor(model, every=10))])  # doctest: +SKIP

    A training that starts from a checkpoint goes on in the same history, and one that starts anew begins it anew. Only the main
    process records.

    Raises:
        UserError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("transformers is not installed: pip install transformers") from error

    class MonitorCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                monitor.rewind(state.global_step)

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

    A training that starts from a checkpoint goes on in the same history, and one that starts anew begins it anew. Only the main
    process records.

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

    class MonitorCallback(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                monitor.rewind(trainer.global_step)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.is_global_zero:
                monitor.step(trainer.global_step)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                monitor.close()

    return MonitorCallback()
