"""The layout of a run directory names its files, for every stage."""

import glob
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from robust_lowrank.errors import UserError, shown

FORM = "form"  # the key in the configuration of a network that is a form of another run's
BLACK_BOX = "-black-box"  # ends the name of a suite where a form without gradients was attacked in its place


class ResultFiles:
    """The files of one evaluation, in a directory such as RUN/results/SUITE.

    Example:
        >>> ResultFiles(Path("quick")).record.name
        'result.json'
    """

    def __init__(self, root: Path) -> None:
        self.root: Path = root
        self.record: Path = root / "result.json"  # the `ResultRecord`
        self.verdicts: Path = root / "verdicts.parquet"  # the table `VERDICTS`
        self.adversarial: Path = root / "adversarial.safetensors"  # the inputs that broke an example
        self.closest: Path = root / "closest.safetensors"  # the most harmful inputs of those that nothing broke
        self.clean: Path = root / "clean.safetensors"  # the first examples as they are
        self.transfer: Path = root / "transfer.parquet"  # the table `TRANSFER`
        self.rounding: Path = root / "rounding.parquet"  # the table `ROUNDING`
        self.replayed: Path = root / "replayed.parquet"  # of a form: the table `REPLAYED`
        self.flipped: Path = root / "flipped.safetensors"  # of a form: clean examples with other verdicts than the network's
        self.units: Path = root / "units"  # the directory of finished units

    @property
    def beside(self) -> tuple[Path, ...]:
        """The files that the record is sealed with."""
        return self.verdicts, self.adversarial, self.closest, self.clean, self.transfer, self.rounding, self.replayed, self.flipped


class RunFiles:
    """The files of a run directory.

    Example:
        >>> RunFiles(Path("runs/condlr")).result("quick").record.as_posix()
        'runs/condlr/results/quick/result.json'
    """

    def __init__(self, root: Path) -> None:
        self.root: Path = root
        self.record: Path = root / "run.json"  # the `RunRecord`
        self.weights: Path = root / "model.safetensors"
        self.metrics: Path = root / "metrics.parquet"  # the table `METRICS`
        self.spectra: Path = root / "spectra.parquet"  # the table `SPECTRA`
        self.monitor: Path = root / "monitor.parquet"  # the table `MONITOR`
        self.operators: Path = root / "operators.parquet"  # the table `OPERATORS`
        self.program: Path = root / "network.pt2"  # the network of a loop of one's own, where no function makes it
        self.examples: Path = root / "examples.safetensors"  # its test examples, where they were given as tensors
        self.resume: Path = root / "resume"  # the directory of states that an interrupted training goes on from
        self.results: Path = root / "results"  # the directory of evaluations
        self.certificates: Path = root / "certificates"  # the directory of certificates
        self.forms: Path = root / "forms"  # the directory of the network's deployed forms, each a run directory
        self.onnx: Path = root / "network.onnx"  # the program of such a form

    @property
    def beside(self) -> tuple[Path, ...]:
        """The files that a finished run's record is sealed with."""
        return self.weights, self.metrics, self.spectra, self.monitor, self.operators, self.program, self.examples, self.onnx

    def result(self, name: str) -> ResultFiles:
        """Return the files of one evaluation, by its suite's name."""
        return ResultFiles(self.results / name)

    def result_names(self, name: str) -> Iterator[str]:
        """Yield the names for results of one suite, without end: that of the suite, and with -2, -3 and so on."""
        yield name
        yield from (f"{name}-{number}" for number in count(2))

    def existing_results(self, name: str) -> list[str]:
        """Return the names of the directories of results of one suite that are there, in the order of their numbers."""
        there = [path.name for path in self.results.glob(f"{glob.escape(name)}*") if path.is_dir()]
        tails = {each: each.removeprefix(f"{name}-") for each in there}
        numbers = {each: 1 if each == name else int(tail) for each, tail in tails.items() if each == name or tail.isdecimal()}
        return sorted(numbers, key=lambda each: numbers[each])

    def form(self, name: str) -> "RunFiles":
        """Return the files of a deployed form."""
        return RunFiles(self.forms / name)

    def certificate(self, name: str) -> Path:
        """Return the `CertificateRecord` of that name; its table `CERTIFICATE` lies beside it, as .parquet."""
        return self.certificates / f"{name}.json"


def require_plain(root: Path) -> None:
    """Require a directory that holds all its files itself, and nothing else than files.

    Raises:
        UserError: a link in it leads out of it, or a pipe or device lies there, at which a reader would wait.
    """
    real, folders = os.path.realpath(root), [os.fspath(root)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    if not Path(target := os.path.realpath(entry.path)).is_relative_to(real):
                        raise UserError(
                            f"{shown(entry.path)} is a link out of the run directory, to {shown(target)}: put what it leads to "
                            "in its place, or take the link away"
                        )
                elif entry.is_dir():
                    folders.append(entry.path)
                elif not entry.is_file():
                    raise UserError(f"{shown(entry.path)} is neither file nor directory: take it away")
