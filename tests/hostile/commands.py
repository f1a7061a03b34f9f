"""Which hostile things can be given to which commands, and how a command that gets one ends: with 2, or as `EXCEPTIONS` says."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save_file
from torch import nn

from robust_lowrank.models.files import sha256
from robust_lowrank.records import RunFiles
from tests.hostile import bundles, data, logs, programs, runs, tables, weights
from tests.hostile.running import Ended, contents, run

Maker = Callable[[Path], Path]
SECONDS = 6.0  # of a processor: on what is whole none of the commands takes more than one
GROWTH = 2**30  # bytes
SPECIAL = re.compile(r"[^\n\x20-\x7e\u00a0-\uffff]")  # a terminal would do something else with it than show it
TRAIN = "train --data digits --train-examples 256 --epochs 4 --model mlp --seed 0"
NET = "--model tests.hostile.commands:network"
FOREIGN = "--data digits --suite quick --n 4"
IMAGES = f"{NET} --suite quick --n 4"


def network(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Return the network that hostile weights pretend to be of."""
    return weights.network()


class Kind(NamedTuple):
    """Things of one kind, and the commands that take them, {} in their place: the first reads most of one."""

    makers: Mapping[str, Maker]  # by names
    commands: tuple[str, ...]


def _named(makers: object) -> dict[str, Maker]:
    found = vars(makers).values() if hasattr(makers, "__file__") else makers
    named = {maker.__name__: maker for maker in found if getattr(maker, "__name__", "").startswith("make_")}
    return {name.removeprefix("make_"): maker for name, maker in named.items()}


def _run(name: str) -> Maker:
    """Return what makes a run directory hostile."""

    def make(place: Path) -> Path:
        runs.MAKERS[name](_copied(place))
        return place / "hostile"

    return make


def _copied(place: Path) -> Path:
    return Path(shutil.copytree(place / "run", place / "hostile"))


def _weights_in_a_run(maker: Maker) -> Maker:
    def make(place: Path) -> Path:
        run = _copied(place)
        maker(place).replace(RunFiles(run).weights)
        return run

    return make


def _program_in_a_run(maker: Maker) -> Maker:
    """Return what makes a run of a loop of one's own, whose record vouches for a hostile program."""

    def make(place: Path) -> Path:
        files = RunFiles(_copied(place))
        maker(place).replace(files.program)
        record = json.loads(files.record.read_text())
        record["config"] = {"loop": "own", "method": record["config"]["method"], "data": {"name": "digits"}}
        record["hashes"]["program"] = sha256(files.program)
        files.record.write_text(json.dumps(record))
        return files.root

    return make


def _run_in_a_bundle(name: str) -> Maker:
    def make(place: Path) -> Path:
        runs.MAKERS[name](run := _copied(place))
        bundle = bundles.pack_run(run, place / "bundle.zip")
        shutil.rmtree(run)
        return bundle

    return make


def _is_data_set(name: str) -> bool:
    return name.endswith(("idx", "gz")) or name in ("pickled_cifar", "nested_index")


_PROGRAMS = (
    f"attack --model {{}} {FOREIGN} --out out",
    f"forecast --model {{}} {FOREIGN}",
    "verify foreign --data digits --model {}",
    "train --data digits --model {} --out out",
    "plan --data digits --model {}",
    "condition {} --out out",
)
_OF_A_RUN = (
    "verify {}",
    "show {}",
    "show {} --json",
    "doctor {}",
    "report {} --out out",
    "view . --out out/view.html",
    "condition {} --out out",
    "forecast {} --suite quick --n 4",
    "attack run --suite blackbox --eps 0.1 --n 4 --source {}",
    "attack {} run --suite quick --eps 0.1 --n 4 --matrix --workers 1",
    "attack {} --suite quick --n 12",
    "certify {} --n 4",
    "export {} --to dense",
    TRAIN + " --out {}",
)
_IN_BUNDLES = (
    "label_of_controls",
    "counts_beyond_total",
    "text_bomb",
    "inputs_of_other_examples",
    "digest_elsewhere",
    "download",
    "function_of_the_system",
    "function_in_the_run",
    "function_of_a_loop",
)
_OF_A_BUNDLE = ("verify {}", "report {} --out out", "verify {} --data digits --json")
_OF_A_NETWORK = tuple(each for each in _OF_A_RUN if not each.startswith(("report", "condition", "show", "view")))
KINDS: dict[str, Kind] = {
    "program": Kind(_named(programs.HOSTILE), _PROGRAMS),
    "ONNX file": Kind(_named(programs.ONNX), _PROGRAMS),
    "weights": Kind(
        _named(weights.HOSTILE),
        (
            f"attack {NET} --weights {{}} {FOREIGN} --out out",
            f"forecast {NET} --weights {{}} {FOREIGN}",
            f"verify foreign --data digits {NET} --weights {{}}",
            "condition {} --out out",
            "attack --model {} " + f"{FOREIGN} --out out",
        ),
    ),
    "images": Kind(
        {name: maker for name, maker in _named(data).items() if not _is_data_set(name)},
        (
            f"attack {IMAGES} --out out --data {{}}",
            f"forecast {IMAGES} --data {{}}",
            f"verify foreign {NET} --data {{}}",
            "train --model mlp --epochs 1 --out out --data {}",
            "plan --model mlp --data {}",
            "attack run --suite quick --n 4 --data {}",
            "certify run --n 4 --data {}",
            "verify run --data {}",
            "export run --to dense --data {}",
            "forecast run --suite quick --n 4 --data {}",
        ),
    ),
    "data set": Kind(
        {name: maker for name, maker in _named(data).items() if _is_data_set(name)},
        (
            f"attack {IMAGES} --out out --data NAME --data-dir {{}}",
            f"forecast {IMAGES} --data NAME --data-dir {{}}",
            f"verify foreign {NET} --data NAME --data-dir {{}}",
            "train --model mlp --epochs 1 --out out --data NAME --data-dir {}",
            "attack run --suite quick --n 4 --data NAME --data-dir {}",
            "certify run --n 4 --data NAME --data-dir {}",
            "verify run --data NAME --data-dir {}",
            "bench NAME.toml --out out --data-dir {}",
        ),
    ),
    "table": Kind(
        _named(tables),
        (
            "bench {} --out out",
            "train --config {} --out out",
            "plan --config {}",
            "attack run --n 4 --suite {}",
            f"attack {NET} --data digits --n 4 --out out --suite {{}}",
            "forecast run --n 4 --suite {}",
        ),
    ),
    "log": Kind(
        _named(logs),
        ("compare {} plain.csv", "compare plain.csv x={} --common --json", "compare plain.csv {} --threshold 0.5 --out out"),
    ),
    "run": Kind({name: _run(name) for name in runs.MAKERS}, _OF_A_RUN),
    "weights in a run": Kind({name: _weights_in_a_run(maker) for name, maker in _named(weights.HOSTILE).items()}, _OF_A_NETWORK),
    "program in a run": Kind({name: _program_in_a_run(maker) for name, maker in _named(programs.HOSTILE).items()}, _OF_A_NETWORK),
    "bundle": Kind(_named(bundles), _OF_A_BUNDLE),
    "run in a bundle": Kind({name: _run_in_a_bundle(name) for name in _IN_BUNDLES}, _OF_A_BUNDLE),
}


class Otherwise(NamedTuple):
    """Things and commands, by patterns of all of their texts, that do not end with 2, and why that is right."""

    kind: str
    names: str
    commands: str
    code: int
    why: str

    def holds(self, kind: str, name: str, command: str) -> bool:
        """Return whether a command that is given a thing ends like this."""
        return kind == self.kind and all(map(re.fullmatch, (self.names, self.commands), (name, command)))


_RECORDS = "counts_beyond_total|interval_upside_down|radius_below_zero|definition_without_attacks|attack_that_is_none"
_TABLES = (
    "text_bomb|table_of_texts|table_without_a_column|table_within_a_table|gaps|unknown_verdict|negative_eps|huge_example|"
    "table_of_another_format"
)
_BESIDE = "unit_.*|inputs_.*"
_RESULTS = f"{_RECORDS}|{_TABLES}|{_BESIDE}"
_ELSEWHERE = "large_input|download|images_elsewhere|function_.*"
_READABLE = f"{_RESULTS}|{_ELSEWHERE}|(table|list)_bomb"
EXCEPTIONS: tuple[Otherwise, ...] = (
    Otherwise("images", "many_frames_gif", "train .*", 0, "a first frame is an image like any other"),
    Otherwise("weights in a run", ".*", "doctor .*", 1, "it names what is damaged"),
    Otherwise("program in a run", ".*", "doctor .*", 1, "it names what is damaged"),
    Otherwise("run", "unit_of_another_shape", "(verify|doctor) .*", 0, "a unit belongs to no result, and is attacked again"),
    Otherwise("run", "unit_.*|inputs_of_other_examples|label_of_controls", "verify .*", 1, "what is stored is not proved"),
    Otherwise("run", f"{_READABLE}|label_of_controls", "doctor .*", 1, "it names what is damaged"),
    Otherwise("run", _READABLE, "show .*", 0, "it lists what is not in order"),
    Otherwise("run", ".*", "view .*", 0, "it lists what is damaged"),
    Otherwise("run", "label_of_controls", ".*", 0, "a label is any text, and is shown escaped"),
    Otherwise("run", _ELSEWHERE, "(report|condition) .*", 0, "they read tables, and leave alone what a record names"),
    Otherwise("run", "download|images_elsewhere", "train .*|.*--source .*", 0, "the images are the same, whatever their name"),
    Otherwise("run", _RESULTS, "(forecast|certify|export|train) .*|.*--source .*", 0, "they read no results"),
    Otherwise("run", f"{_TABLES}|{_BESIDE}", "attack .*", 0, "a damaged result is made again"),
    Otherwise("run", _BESIDE, "(report|condition) .*", 0, "they read neither units nor inputs"),
    Otherwise("bundle", "link", "verify .*", 1, "in an archive it is a file like any other, which nobody has sealed"),
    Otherwise("run in a bundle", "inputs_of_other_examples|label_of_controls|download", "verify .*", 1, "it is not proved"),
)


def prepared(place: Path) -> None:
    """Make what commands need that are given something hostile: a run with results, and results of a foreign network."""
    place.mkdir(parents=True)
    (place.parent / "temporary").mkdir()
    save_file(weights.network().state_dict(), place / "plain.safetensors")
    (place / "plain.csv").write_text("example,correct\n1,1\n2,0\n")
    for name in ("mnist", "cifar10"):
        methods = '[[methods]]\nname = "dense"\n'
        (place / f"{name}.toml").write_text(f'name = "{name}"\n[data]\nname = "{name}"\n[model]\nname = "mlp"\n{methods}')
    for command in (
        TRAIN + " --out run",
        "attack run --suite quick --n 12",
        f"attack {NET} --weights plain.safetensors {FOREIGN} --out foreign",
    ):
        ended = run(command, place, place.parent / "temporary")
        if ended.code:
            raise RuntimeError(f"{command}: {ended.said}")


class Tried(NamedTuple):
    """A command as it was given, how it ended, and in words what was wrong with that."""

    command: str
    ended: Ended
    faults: list[str]


class Survey:
    """Gives hostile things to commands, in copies of a directory that `prepared` has made."""

    def __init__(self, prepared: Path, folder: Path) -> None:
        self._prepared, self._place, self._temporary = prepared, folder / "place", folder / "temporary"

    def tried(self, kind: str, name: str, commands: Sequence[str]) -> Iterator[Tried]:
        """Give the thing of a name to commands, one after the other."""
        changed = True
        for template in commands:
            if changed:
                thing = self._made(KINDS[kind].makers[name])
                before = contents(self._place)
            command = template.replace("{}", thing.name).replace(
                "NAME", "cifar10" if "cifar" in name or "index" in name else "mnist"
            )
            ended = run(command, self._place, self._temporary)
            after = contents(self._place)
            changed = after != before
            differences = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
            due = next((each.code for each in EXCEPTIONS if each.holds(kind, name, template)), 2)
            places = ("out", *_written(command)) if ended.code in (0, 1) else ()
            faults = list(_wrong(ended, due))
            faults += [f"{path} changed" for path in differences if path.partition("/")[0] not in places]
            faults += [f"{path.name} was left among temporary files" for path in self._temporary.iterdir()]
            yield Tried(command, ended, faults)

    def _made(self, make: Maker) -> Path:
        shutil.rmtree(self._place.parent, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        shutil.copytree(self._prepared, self._place)
        return make(self._place)


def _written(command: str) -> list[str]:
    """Return the run directories that a command may write into."""
    verb, *words = command.split()
    return [word for word in words if word in ("run", "hostile")] if verb in ("attack", "certify", "export", "train") else []


def _wrong(ended: Ended, due: int) -> Iterator[str]:
    said = ended.said.strip()
    if ended.code != due:
        yield f"it ended with {ended.code} and not {due}: {said[-300:]!r}"
    message = said[said.rfind("Error: ") :] if "Error: " in said else ""
    if ended.code == 2 and not 1 <= len(message.splitlines()) <= 3:
        yield f"it said {len(message.splitlines())} lines: {said[:300]!r}"
    if "Traceback" in said:
        yield f"a traceback: {said[-300:]!r}"
    if found := SPECIAL.search(said):
        yield f"it said {found[0]!r} in {said[max(0, found.start() - 40) : found.start() + 40]!r}"
    if ended.seconds > SECONDS:
        yield f"it took {ended.seconds:.1f} s"
    if ended.growth > GROWTH:
        yield f"it grew by {ended.growth / 2**20:,.0f} MiB"
