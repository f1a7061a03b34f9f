"""The forms of a run's network are made below the run, attacked as the run is, and held against it."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robust_lowrank import data, evaluation, records, training
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.attack import Attack
from robust_lowrank.jobs.chain import Job, attack_run, subject_of
from robust_lowrank.jobs.events import Event, Report
from robust_lowrank.jobs.forms import PROGRAMS, form_network, origin, write_form
from robust_lowrank.jobs.subjects import Subject, device_of, keeps_examples, network, require_factors, trained, untrained_run
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.threat import OBSERVED

EXAMPLES = 256  # training images by which eight bits choose their ranges


def attack_forms(job: Job, attack: Attack, result: str, report: Report) -> dict[str, str]:
    """Attack the forms of a run that an attack names, and return why some were left out.

    Args:
        result: the name of the attack's result on the run itself, whose verdicts the forms' are held against.

    What has gradients is put to the same suite, and what has none to `Attack.without_gradients`.
    """
    left_out: dict[str, str] = {}
    for form in attack.forms:
        name = f"{job.name}, {form}"
        try:
            report(Event(name, "form", 0, 1))
            out = make_form(job.out, form, job.config.data, command=job.command, trust_code=attack.trust_code)
        except UserError as error:
            left_out[form] = str(error)
            report(Event(name, "form", 1, 1, warning=f"left out: {error}"))
            continue
        mine = replace(attack, examples=attack.form_examples or attack.examples)
        mine = mine.without_gradients(job.out) if form in PROGRAMS else mine
        deployed = Job(name, out, job.config, (mine,), job.command, train=False)
        files = records.RunFiles(out).result(attack_run(deployed, mine, report))
        subject = subject_of(deployed, mine)
        own = network(job.out, trust_code=attack.trust_code)
        _hold_against(files, records.RunFiles(job.out).result(result), subject, own)
    return left_out


def _hold_against(form: records.ResultFiles, trained: records.ResultFiles, subject: Subject, own: nn.Module) -> None:
    """Try what broke a form on the trained network and the reverse, and keep the clean examples whose verdicts are others."""
    import pandas as pd

    rows = []
    for on, model, files in (("form", subject.model, trained), ("trained", own, form)):
        inputs = {
            key: evaluation.Adversarial(*(tensor[each.examples < len(subject.y)] for tensor in each))
            for key, each in evaluation.read_adversarial(files.adversarial).items()
        }
        for (attack, eps), each in evaluation.replay(model, subject.x, subject.y, inputs).items():
            rows += [(on, example, attack, eps) for example in each.fooled.tolist()]
    replayed = pd.DataFrame(rows, columns=pd.Index(records.REPLAYED))
    verdicts = [records.read_frame(files.verdicts, records.VERDICTS) for files in (trained, form)]
    examples = torch.tensor(records.flipped(verdicts[0], verdicts[1], replayed), dtype=torch.int64)
    records.write_frame(form.replayed, replayed)
    with records.replacing(form.flipped) as temporary:
        save_file({"inputs": data.unit_range(subject.images[examples]).contiguous(), "examples": examples}, temporary)
    records.write_sealed(form.record, records.read_record(form.record, records.ResultRecord), form.beside)


def make_form(run_dir: Path, form: str, place: training.DataConfig, *, command: str, trust_code: bool = False) -> Path:
    """Write the run directory of a form of a run's network, unless it is there and whole, and return it.

    Args:
        trust_code: as in `training.load_network`.

    Raises:
        UserError: the network cannot take the form, its packages are not installed, or what is there is of other weights.
    """
    if origin(run_dir) is not None:
        raise UserError(f"{run_dir} is a form itself: attack the forms of the run that it lies in")
    require_factors(run_dir, form)
    subject = trained(run_dir, place, trust_code=trust_code)
    files, run = records.RunFiles(run_dir).form(form), records.read_run(run_dir, results=False).record
    weights = digest_tensors(subject.model.state_dict())
    if files.record.is_file():
        there = records.read_record(files.record, records.RunRecord)
        if there.config.get("weights") != weights:
            raise UserError(f"{files.root} is of other weights than its run has now: move it away")
        if not records.broken_seals(files.record, there, files.beside):
            return files.root
    write_form(subject.model, form, files.onnx, _typical(run, subject, place).to(device_of(subject.model)))
    deployed = form_network(subject.model, form, files.onnx)
    made = untrained_run(
        files.root,
        deployed,
        label=f"{run.label}, {form}",
        method=run.method,
        model=run.model,
        data=run.data,
        seed=run.seed,
        command=command,
        config={records.FORM: form, "weights": weights},
        classes=run.classes,
        input_shape=run.input_shape,
        hashes=run.hashes | {"weights": digest_tensors(deployed.state_dict())},
        behaviour=evaluation.behaviour(deployed, subject.first(OBSERVED).x),
    )
    records.write_frame(files.metrics, made.metrics)
    records.write_frame(files.spectra, made.spectra)
    records.write_sealed(files.record, made.record, files.beside)
    return files.root


def _typical(run: records.RunRecord, subject: Subject, place: training.DataConfig) -> Tensor:
    """Return images by which eight bits choose their ranges: those trained on, or the examples of a run that keeps these alone."""
    if keeps_examples(run):
        return subject.first(EXAMPLES).x
    return data.unit_range(place.load().train_images[:EXAMPLES])
