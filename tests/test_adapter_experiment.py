import json
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import adapters
from experiments.adapter_methods import METHODS, RANK
from experiments.adapter_tasks import SIDE, Classifier, Part, Sentences, Task, enlarge, linear_layers, sst2, trim
from experiments.adapter_updates import row, share
from experiments.adapters import Cell, Results, batches, best_rate, judge, main, start, train
from robust_lowrank import UserError
from robust_lowrank.layers import named_factored_layers

OURS = [name for name in METHODS if "peft" not in name]
STEPS = 12


def toy_task(features: nn.Module, x: torch.Tensor, prepare: Callable[[torch.Tensor], torch.Tensor]) -> Task:
    """Return a task of random examples whose labels the first columns of the features at the start decide."""
    network = Classifier(features, 16, 2)
    with torch.no_grad():
        y = features(prepare(x))[:, 0]
    part = Part(x, (y > y.median()).long(), x.flatten(1).ne(0).sum(1))
    return Task(network, linear_layers(network, "features"), 8, prepare, part, part, part)


@pytest.fixture(scope="module")
def words() -> Task:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    tokens = torch.randint(1, 50, (64, 10)) * (torch.arange(10) < torch.randint(3, 9, (64, 1)))
    return toy_task(Sentences(transformers.BertModel(config, add_pooling_layer=False)).eval(), tokens, trim)


@pytest.mark.parametrize("method", OURS)
def test_every_method_starts_at_the_pretrained_network_and_learns(method: str, words: Task) -> None:
    check(method, words)


@pytest.mark.parametrize("method", [name for name in METHODS if "peft" in name])
def test_peft_starts_there_and_learns_too(method: str, words: Task) -> None:
    pytest.importorskip("peft")
    check(method, words)


def test_updates_are_described_by_size_and_features(words: Task) -> None:
    assert share(torch.tensor([1.0] * 50)) == pytest.approx(1 / 50)
    assert share(torch.tensor([0.0, 3.0, 1.0])) == 0.75
    found = row(words, "GeoLoRA", 1e-2, STEPS)
    assert float(str(found["Frobenius norm"])) > 0 and "%" in str(found["in 2 % of the rows"])


def check(method: str, task: Task) -> None:
    before = {name: each.clone() for name, each in task.network.state_dict().items()}
    adapted = start(task, method, 1e-2, 0, STEPS)
    features = adapted.network.model.features if "peft" in method else adapted.network.features
    x = task.prepare(task.test.x)
    torch.testing.assert_close(features.eval()(x), task.network.features(x), atol=1e-5, rtol=1e-4)
    row = train(task, Cell("toy", method, 1e-2, 0, STEPS))
    assert row == train(task, Cell("toy", method, 1e-2, 0, STEPS)) | {"seconds": row["seconds"]}
    assert row["validation_loss"] < math.log(2)
    for name, value in task.network.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)


def test_sizes_are_those_of_the_ranks(words: Task) -> None:
    shapes = [words.network.get_submodule(name).weight.shape for name in words.layers]
    sides = sum(n + m for n, m in shapes)
    assert start(words, "LoRA", 1e-3, 0, STEPS).size() == RANK * sides
    assert start(words, "CondLR", 1e-3, 0, STEPS).size() == RANK * sides + RANK**2 * len(shapes)
    assert start(words, "head alone", 1e-3, 0, STEPS).size() == 0
    adapted = start(words, "AdaLoRA", 1e-3, 0, STEPS)
    assert adapted.size() == 0  # its values start at zero
    for _, layer in named_factored_layers(adapted.network):
        layer.all_factors()[1].data[:3] = 1.0
    assert adapted.size() == 3 * (sides + len(shapes))


def test_ends_within_the_budget(words: Task) -> None:
    assert sum(train(words, Cell("toy", "GeoLoRA", 1e-2, 0, STEPS))["ranks"]) <= RANK * len(words.layers)
    widest = max(sum(words.network.get_submodule(name).weight.shape) for name in words.layers)
    assert 0 < train(words, Cell("toy", "AdaLoRA", 1e-2, 0, STEPS))["parameters"] <= RANK * len(words.layers) * (widest + 1)


def test_batches_are_of_similar_lengths_and_lose_nothing(words: Task) -> None:
    epoch = list(islice(batches(words, seed=3), 8))
    assert sorted(y.numel() for _, y in epoch) == [8] * 8
    spread = [int(x.ne(0).sum(1).max() - x.ne(0).sum(1).min()) for x, _ in epoch]
    assert max(spread) <= 2
    seen = torch.cat([torch.cat([x, x.new_zeros(len(x), 10 - x.shape[1])], 1) for x, _ in epoch])
    assert sorted(seen.tolist()) == sorted(words.train.x.tolist())
    assert torch.equal(next(batches(words, seed=3))[0], epoch[0][0])


def test_judgement_does_not_depend_on_the_order(words: Task) -> None:
    accuracy, loss = judge(words, words.network, words.test)
    with torch.no_grad():
        outputs = words.network(words.prepare(words.test.x), words.test.y)
    assert accuracy == 100 * float((outputs.logits.argmax(1) == words.test.y).double().mean())
    assert loss == pytest.approx(float(outputs.loss), rel=1e-5)


@pytest.mark.parametrize(("peak", "tried"), [(1e-3, 3), (1e-2, 5), (3e-5, 6)])
def test_the_rate_is_found_uphill(peak: float, tried: int) -> None:
    seen = set()

    def run(method: str, rate: float, seed: int) -> dict[str, float]:
        seen.add(rate)
        assert (method, seed) == ("LoRA", 0)
        return {"validation_loss": abs(math.log(rate / peak))}

    assert best_rate("peft's LoRA", run) == peak
    assert len(seen) == tried


def test_what_is_finished_is_not_done_again(words: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, path = Cell("toy", "head alone", 1e-2, 0, STEPS), tmp_path / "new" / "results.jsonl"
    first = Results(path).of(words, cell)
    monkeypatch.setattr(adapters, "train", lambda *_: pytest.fail("trained again"))
    assert Results(path).of(words, cell) == first
    assert json.loads(path.read_text()) == first


def test_a_vision_transformer_is_a_task_too() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=42, patch_size=14, embed_dim=16, depth=1, num_heads=2, num_classes=0)
    task = toy_task(vit.eval(), torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8), enlarge)
    assert [name.rsplit(".", 1)[-1] for name in task.layers] == ["qkv", "proj", "fc1", "fc2"]
    row = train(task, Cell("toy", "GeoLoRA", 1e-2, 0, STEPS))
    assert row["validation_loss"] < math.log(2)
    assert row["ranks"]


def test_images_are_enlarged_as_imagenet_has_them() -> None:
    grey = torch.full((1, 3, 32, 32), 124, dtype=torch.uint8)
    large = enlarge(grey)
    assert large.shape == (1, 3, SIDE, SIDE)
    torch.testing.assert_close(large[0, 0], torch.full((SIDE, SIDE), (124 / 255 - 0.485) / 0.229), atol=1e-5, rtol=0)


def test_sst2_is_read_as_glue_has_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "dull", "film", '"', "it"]
    transformers.BertTokenizerFast(vocab=dict(zip(vocabulary, range(11), strict=True))).save_pretrained(tmp_path / "bert")
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    rows = ["a fine film\t1", 'it " dull\t0'] * 600
    (tmp_path / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\na dull film \t0\n")
    task = sst2(tmp_path, tmp_path / "bert")
    assert [len(part.y) for part in (task.train, task.validation, task.test)] == [200, 1000, 1]
    assert task.train.x[1].tolist() == [2, 10, 9, 7, 3]
    assert task.test.x.tolist() == [[2, 5, 7, 8, 3]]
    assert len(task.layers) == 6
    (tmp_path / "dev.tsv").write_text("text\nfine\n")
    with pytest.raises(UserError, match=r"dev\.tsv is no part of SST-2"):
        sst2(tmp_path, tmp_path / "bert")


def test_torn_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"task": "sst2", "me')
    with pytest.raises(UserError, match=r"results\.jsonl, line 1"):
        Results(tmp_path / "results.jsonl")


def test_weights_that_are_missing_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["cifar10", "--data-dir", str(tmp_path), "--weights", str(tmp_path / "vit"), "--results", str(tmp_path / "results")])
    assert "vit does not exist" in capsys.readouterr().err
