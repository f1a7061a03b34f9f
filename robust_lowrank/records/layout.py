"""Layout names the files of a run directory, for every stage."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ResultFiles:
    """The files of one evaluation, in a directory such as RUN/results/SUITE.

    Example:
        >>> ResultFiles(Path("quick")).record.name
        'result.json'
    """

    root: Path

    @property
    def record(self) -> Path:
        """The `ResultRecord`."""
        return self.root / "result.json"

    @property
    def verdicts(self) -> Path:
        """The table `VERDICTS`."""
        return self.root / "verdicts.parquet"

    @property
    def adversarial(self) -> Path:
        """The inputs that broke an example."""
        return self.root / "adversarial.safetensors"

    @property
    def clean(self) -> Path:
        """The first examples as they are."""
        return self.root / "clean.safetensors"

    @property
    def transfer(self) -> Path:
        """The table `TRANSFER`."""
        return self.root / "transfer.parquet"

    @property
    def units(self) -> Path:
        """The directory of finished units."""
        return self.root / "units"


@dataclass(frozen=True)
class RunFiles:
    """The files of a run directory.

    Example:
        >>> RunFiles(Path("runs/condlr")).result("quick").record.as_posix()
        'runs/condlr/results/quick/result.json'
    """

    root: Path

    @property
    def record(self) -> Path:
        """The `RunRecord`."""
        return self.root / "run.json"

    @property
    def weights(self) -> Path:
        """The trained weights."""
        return self.root / "model.safetensors"

    @property
    def metrics(self) -> Path:
        """The table `METRICS`."""
        return self.root / "metrics.parquet"

    @property
    def spectra(self) -> Path:
        """The table `SPECTRA`."""
        return self.root / "spectra.parquet"

    @property
    def monitor(self) -> Path:
        """The table `MONITOR`."""
        return self.root / "monitor.parquet"

    @property
    def operators(self) -> Path:
        """The table `OPERATORS`."""
        return self.root / "operators.parquet"

    @property
    def resume(self) -> Path:
        """The directory of states that an interrupted training goes on from."""
        return self.root / "resume"

    @property
    def results(self) -> Path:
        """The directory of evaluations."""
        return self.root / "results"

    @property
    def certificates(self) -> Path:
        """The directory of certificates."""
        return self.root / "certificates"

    def result(self, name: str) -> ResultFiles:
        """Return the files of one evaluation, by its suite's name."""
        return ResultFiles(self.results / name)

    def certificate(self, name: str) -> Path:
        """Return the `CertificateRecord` of that name; its table `CERTIFICATE` lies beside it, as .parquet."""
        return self.certificates / f"{name}.json"
