"""Run directories as a stranger would send them: each function here damages a copy of a run that was trained and attacked.

The run must have a result of the suite `quick` with its units, and `run.json` in its present form.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from robust_lowrank.evaluation.unit_result import UnitResult
from robust_lowrank.records import RunFiles

SUITE = "quick"


def make_label_of_controls(run: Path) -> None:
    """The label colours a terminal, turns the direction of writing, ends a chart engine, and is a formula and a script."""
    _edit(run, label="=cmd|'/c calc'!A1\x1b[31m\x00\u202e</script><script>alert(1)</script>\\input{/etc/passwd}")


def make_accuracy_of_seven(run: Path) -> None:
    """The network is seven times as good as can be."""
    _edit(run, test_accuracy=7)


def make_many_wrong_fields(run: Path) -> None:
    """Nothing is what it should be: a message must not be as long."""
    _edit(
        run, test_accuracy=-1, seed="x", epochs_done=-3, created="yesterday", seconds=-1, hashes={"weights": "../../etc"}, extra=1
    )


def make_counts_beyond_total(run: Path) -> None:
    """More examples hold than there are."""
    record = _result(run)
    record["accuracies"][-1] |= {"correct": 10**6}
    _write(RunFiles(run).result(SUITE).record, record)


def make_interval_upside_down(run: Path) -> None:
    """An accuracy lies outside its own interval."""
    record = _result(run)
    record["accuracies"][0] |= {"low": 0.9, "high": 0.1}
    _write(RunFiles(run).result(SUITE).record, record)


def make_radius_below_zero(run: Path) -> None:
    """The network was attacked within less than nothing."""
    _write(RunFiles(run).result(SUITE).record, _result(run) | {"eps": [-0.1]})


def make_definition_without_attacks(run: Path) -> None:
    """A result says nothing of the attacks that it is of."""
    _write(RunFiles(run).result(SUITE).record, _result(run) | {"definition": {"attacks": "all"}})


def make_attack_that_is_none(run: Path) -> None:
    """A result is of attacks with parameters that no attack has."""
    record = _result(run)
    record["definition"]["attacks"] = [{"name": "pgd", "attack": "pgd", "steps": {"a": [[]]}, "eps": "x"}]
    _write(RunFiles(run).result(SUITE).record, record)


def make_class_names_of_a_megabyte(run: Path) -> None:
    """The name of each class fills a report."""
    _edit(run, classes=["x" * 2**20] * 10)


def make_classes_without_number(run: Path) -> None:
    """There are more classes than anybody tells apart."""
    _edit(run, classes=["x"] * 200_000)


def make_huge_input(run: Path) -> None:
    """The network takes images that no memory holds."""
    _edit(run, input_shape=[3, 10**6, 10**6])


def make_large_input(run: Path) -> None:
    """The network takes images that it was not trained on, and would be made with sixteen gigabytes of weights."""
    _edit(run, input_shape=[1, 4096, 4096])


def make_deep_nesting(run: Path) -> None:
    """A reader that calls itself for each table runs out of stack."""
    RunFiles(run).record.write_text('{"config":' * 100_000)


def make_nesting_that_parses(run: Path) -> None:
    """Tables lie within tables, as deep as a parser takes them."""
    nested: Any = 1
    for _ in range(500):
        nested = {"a": nested}
    _edit(run, config=nested)


def make_number_of_5000_digits(run: Path) -> None:
    """A number takes minutes to be read."""
    RunFiles(run).record.write_text(RunFiles(run).record.read_text().replace('"seed": 0', '"seed": ' + "9" * 5000, 1))


def make_not_a_number(run: Path) -> None:
    """JSON has no NaN, and Python's parser takes it."""
    _edit(run, seconds=float("nan"))


def make_half_of_a_character(run: Path) -> None:
    """A text cannot be written as UTF-8."""
    _edit(run, label="\ud800")


def make_record_of_another_encoding(run: Path) -> None:
    """The record is UTF-16."""
    path = RunFiles(run).record
    path.write_bytes(path.read_text().encode("utf-16"))


def make_record_that_is_a_list(run: Path) -> None:
    """The record is JSON, and no table."""
    RunFiles(run).record.write_text("[1, 2]")


def make_sparse_record(run: Path) -> None:
    """The record is much of nothing, which takes no place on a disk."""
    with RunFiles(run).record.open("wb") as file:
        file.truncate(2**26)


def make_newer_schema(run: Path) -> None:
    """A later version wrote it."""
    _edit(run, schema_version=99)


def make_download(run: Path) -> None:
    """The record asks for a download into a directory of its choice."""
    config = _run(run)["config"]
    config["data"] |= {"name": "mnist", "data_dir": str(run.parent / "made-by-a-record"), "download": True}
    _edit(run, config=config)


def make_images_elsewhere(run: Path) -> None:
    """The record names a directory of the system as its images."""
    config = _run(run)["config"]
    config["data"]["name"] = "/etc"
    _edit(run, config=config)


def make_function_of_the_system(run: Path) -> None:
    """The network is made by a function that ends the process."""
    config = _run(run)["config"]
    config["model"]["name"] = "os:abort"
    _edit(run, config=config)


def make_function_in_the_run(run: Path) -> None:
    """The network is made by a module that came with the run, and writes a file when it is imported."""
    (run / "evil.py").write_text(f"open({str(run.parent / 'imported')!r}, 'w')\ndef net(): ...\n")
    config = _run(run)["config"]
    config["model"]["name"] = "evil:net"
    _edit(run, config=config)


def make_function_of_a_loop(run: Path) -> None:
    """The network of a loop of one's own is made by a function that removes directories."""
    method = _run(run)["config"]["method"]
    _edit(run, config={"loop": "own", "source": "shutil:rmtree", "method": method, "data": {"name": "digits"}})


def make_digest_elsewhere(run: Path) -> None:
    """The record is sealed with a file of the system, whose hash would be told."""
    _edit(run, files={"../../../../etc/passwd": "0" * 64})


def make_results_elsewhere(run: Path) -> None:
    """The results are a link to a directory of the user's, into which an attack would write."""
    target = run.parent / "of-the-user"
    target.mkdir(exist_ok=True)
    RunFiles(run).results.rename(run / "before")
    RunFiles(run).results.symlink_to(target)


def make_weights_elsewhere(run: Path) -> None:
    """The weights are a link to a device that never ends."""
    RunFiles(run).weights.unlink()
    RunFiles(run).weights.symlink_to("/dev/zero")


def make_pipe(run: Path) -> None:
    """A table is a pipe, at which a reader waits for ever."""
    path = RunFiles(run).result(SUITE).verdicts
    path.unlink()
    os.mkfifo(path)


def make_table_bomb(run: Path) -> None:
    """A small table declares forty million rows."""
    rows = pa.array(np.zeros(40_000_000, dtype=np.int8))
    pq.write_table(pa.table({"epoch": rows}), RunFiles(run).metrics, compression="zstd")


def make_text_bomb(run: Path) -> None:
    """One long text is repeated in every row of a small table."""
    table = _verdicts(run)
    _write_verdicts(run, table.set_column(table.schema.get_field_index("flags"), "flags", pa.array(["x" * 10**6] * len(table))))


def make_list_bomb(run: Path) -> None:
    """A row of a small table holds forty million numbers."""
    numbers = pa.array(np.zeros(40_000_000, dtype=np.int8))
    row = pa.ListArray.from_arrays(pa.array([0, len(numbers)], pa.int32()), numbers)
    pq.write_table(pa.table({"singular_values": row}), RunFiles(run).spectra, compression="zstd")


def make_table_of_texts(run: Path) -> None:
    """Every column of the verdicts is text."""
    table = _verdicts(run)
    _write_verdicts(
        run, pa.table({name: pa.array([str(value) for value in table[name].to_pylist()]) for name in table.schema.names})
    )


def make_table_without_a_column(run: Path) -> None:
    """The verdicts lack the verdict."""
    _write_verdicts(run, _verdicts(run).drop_columns(["verdict"]))


def make_table_within_a_table(run: Path) -> None:
    """A column of the verdicts holds tables."""
    table = _verdicts(run)
    nested = pa.array([{"a": {"b": 1}}] * len(table))
    _write_verdicts(run, table.set_column(table.schema.get_field_index("attack"), "attack", nested))


def make_gaps(run: Path) -> None:
    """The verdicts miss labels."""
    table = _verdicts(run)
    _write_verdicts(run, table.set_column(1, "label", pa.nulls(len(table), pa.int64())))


def make_unknown_verdict(run: Path) -> None:
    """The verdicts say that the network has won."""
    _replace(run, "verdict", "won")


def make_negative_eps(run: Path) -> None:
    """The verdicts are of budgets below nothing."""
    _replace(run, "eps", -1.0)


def make_huge_example(run: Path) -> None:
    """The verdicts are of examples that are no whole numbers."""
    _replace(run, "example", 1e300)


def make_table_of_another_format(run: Path) -> None:
    """The verdicts are no Parquet file, and end like one."""
    RunFiles(run).result(SUITE).verdicts.write_bytes(b"PAR1" + b"\xff" * 64 + b"\xff\xff\xff\x7fPAR1")


def make_unit_of_another_shape(run: Path) -> None:
    """A finished unit holds inputs of another shape than the examples, and its digest is right."""

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["inputs"], tensors["closest"] = (torch.zeros(len(tensors[key]), 3, 2, 2) for key in ("inputs", "closest"))

    _damage_units(run, damage)


def make_unit_of_another_type(run: Path) -> None:
    """A finished unit counts in fractions, and its digest is right."""

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["forwards"] = tensors["forwards"].double() - 1e9

    _damage_units(run, damage)


def make_unit_of_nothing(run: Path) -> None:
    """The finished units are empty files."""
    for path in RunFiles(run).result(SUITE).units.glob("*.safetensors"):
        path.write_bytes(b"")


def make_inputs_under_other_names(run: Path) -> None:
    """The inputs that broke examples are of no attack."""
    path = RunFiles(run).result(SUITE).adversarial
    save_file({"a/b": torch.zeros(1), "/inputs": torch.zeros(1, 1), "/examples": torch.zeros(1, dtype=torch.int64)}, path)


def make_inputs_of_other_examples(run: Path) -> None:
    """The inputs that broke examples are of examples that there are not."""
    path = RunFiles(run).result(SUITE).adversarial
    tensors = load_file(path)
    save_file({key: tensor - 10**9 if key.endswith("examples") else tensor for key, tensor in tensors.items()}, path)


def make_inputs_of_other_types(run: Path) -> None:
    """The inputs that broke examples are truths, and their numbers fractions."""
    path = RunFiles(run).result(SUITE).adversarial
    tensors = load_file(path)
    save_file({key: tensor.double() if key.endswith("examples") else tensor.bool() for key, tensor in tensors.items()}, path)


def make_inputs_of_a_huge_head(run: Path) -> None:
    """The head of a file of tensors is declared to be as long as memory."""
    RunFiles(run).result(SUITE).adversarial.write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\x7f{}")


MAKERS: dict[str, Callable[[Path], None]] = {
    name.removeprefix("make_"): make for name, make in list(globals().items()) if name.startswith("make_")
}


def _run(run: Path) -> dict[str, Any]:
    return json.loads(RunFiles(run).record.read_text(encoding="utf-8"))


def _result(run: Path) -> dict[str, Any]:
    return json.loads(RunFiles(run).result(SUITE).record.read_text(encoding="utf-8"))


def _edit(run: Path, **fields: Any) -> None:
    _write(RunFiles(run).record, _run(run) | fields)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def _verdicts(run: Path) -> pa.Table:
    return pq.read_table(RunFiles(run).result(SUITE).verdicts)


def _write_verdicts(run: Path, table: pa.Table) -> None:
    pq.write_table(table, RunFiles(run).result(SUITE).verdicts, compression="zstd")


def _replace(run: Path, column: str, value: Any) -> None:
    table = _verdicts(run)
    place = table.schema.get_field_index(column)
    _write_verdicts(run, table.set_column(place, column, pa.array([value] * len(table))))


def _damage_units(run: Path, damage: Callable[[dict[str, torch.Tensor]], None]) -> None:
    for path in RunFiles(run).result(SUITE).units.glob("*.safetensors"):
        read = UnitResult.from_file(path)
        assert read is not None
        unit, behaviour = read
        tensors = dict(vars(unit))
        damage(tensors)
        UnitResult(**tensors).to_file(path, behaviour)
