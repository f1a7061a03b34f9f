"""What is written for PEFT computes under stock PEFT what it computed here, and what PEFT cannot do is refused."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import robust_lowrank as rlr
from robust_lowrank import UserError
from robust_lowrank.peft import to_peft
from robust_lowrank.peft.naming import CONFIG, WEIGHTS, by_name, matching, saved_whole, target_modules
from tests.peft.networks import IDS, METHODS, bert, gpt2, logits, peft, trained, under_peft, vision

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
]
HEAD = {"exclude": ["classifier", "bert.pooler.dense"], "trainable": [r"classifier\..*", r"bert.*query\.bias"]}


def config_of(path: Path) -> dict:
    return json.loads((path / CONFIG).read_text())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_peft_computes_what_was_trained_here(method, tmp_path: Path) -> None:
    model, base = bert(), bert()
    rlr.adapt(model, method=method, rank=3, alpha=2.0, **HEAD)
    trained(model, IDS)
    to_peft(model, tmp_path / "a")
    due, found = logits(model, IDS), under_peft(base, tmp_path / "a")
    assert (due - logits(base, IDS)).abs().max() > 1e-2
    torch.testing.assert_close(logits(found, IDS), due, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(found.merge_and_unload(), IDS), due, rtol=0, atol=1e-5)
    assert config_of(tmp_path / "a")["modules_to_save"] == ["classifier"]
    assert config_of(tmp_path / "a")["bias"] == "lora_only"


def test_ranks_that_differ_are_scaled_by_one(tmp_path: Path) -> None:
    model, base = bert(), bert()
    overrides = {r".*query": 2, r".*layer\.1\.output\.dense": 7}
    rlr.adapt(model, method=rlr.GeoLoRA(tol=0.3), rank=rlr.Rank(default=4, overrides=overrides), exclude=["classifier"])
    trained(model, IDS)
    to_peft(model, tmp_path / "a")
    found = under_peft(base, tmp_path / "a")
    layers = [module for module in found.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert len({module.r["default"] for module in layers}) > 2
    assert {module.scaling["default"] for module in layers} == {1.0}
    torch.testing.assert_close(logits(found, IDS), logits(model, IDS), rtol=0, atol=1e-5)


def test_conv1d_of_transformers(tmp_path: Path) -> None:
    model, base = gpt2(), gpt2()
    rlr.adapt(model, method="geolora", rank=3, include=r".*\.(c_attn|c_proj)", trainable=[r".*ln_f\..*"])
    trained(model, IDS)
    to_peft(model, tmp_path / "a")
    found = under_peft(base, tmp_path / "a")
    assert config_of(tmp_path / "a")["fan_in_fan_out"]
    torch.testing.assert_close(logits(found, IDS), logits(model, IDS), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(found.merge_and_unload(), IDS), logits(model, IDS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["geolora", "condlr", "lora"])
def test_convolutions_names_that_end_one_another_and_statistics_that_move(method: str, tmp_path: Path) -> None:
    model, base, x = vision(), vision(), torch.randn(4, 3, 8, 8)
    rlr.adapt(model, method=method, rank=2, exclude=[r"13\.0"])
    trained(model.train(), x)
    model.eval()
    to_peft(model, tmp_path / "a")
    due, found = logits(model, x), under_peft(base, tmp_path / "a")
    assert not torch.equal(model[1].running_mean, base[1].running_mean)
    assert isinstance(config_of(tmp_path / "a")["target_modules"], str)  # "13.0" ends as "0" does
    torch.testing.assert_close(logits(found, x), due, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(found.merge_and_unload(), x), due, rtol=0, atol=1e-5)


def test_an_embedding(tmp_path: Path) -> None:
    model, base = bert(), bert()
    rlr.adapt(model, method="geolora", rank=3, include=[r".*word_embeddings", r".*key"])
    trained(model, IDS)
    to_peft(model, tmp_path / "a")
    torch.testing.assert_close(logits(under_peft(base, tmp_path / "a"), IDS), logits(model, IDS), rtol=0, atol=1e-5)


def test_a_network_in_bf16(tmp_path: Path) -> None:
    model, base = bert().bfloat16(), bert().bfloat16()
    rlr.adapt(model, method="condlr", rank=3, exclude=["classifier"])
    trained(model, IDS)
    to_peft(model, tmp_path / "a")
    torch.testing.assert_close(logits(under_peft(base, tmp_path / "a"), IDS), logits(model, IDS), rtol=0, atol=2e-2)


def test_a_file_has_the_updates_alone_and_is_written_anew_but_over_nothing_else(tmp_path: Path) -> None:
    model = bert()
    rlr.adapt(model, rank=2, exclude=["classifier"])
    path = tmp_path / "new" / "a"
    to_peft(model, path)
    stored = sum(layer.rank * sum(layer.weight_shape) for _, layer in rlr.layers.named_factored_layers(model))
    assert 4 * stored < (path / WEIGHTS).stat().st_size < 4 * stored + 10_000
    assert sorted(each.name for each in path.parent.iterdir()) == ["a"]
    trained(model, IDS)
    to_peft(model, path)
    torch.testing.assert_close(logits(under_peft(bert(), path), IDS), logits(model, IDS), rtol=0, atol=1e-5)
    other = bert()
    rlr.adapt(other, rank=2, include=".*query")
    with pytest.raises(UserError, match="something else than an adapter of the same layers"):
        to_peft(other, path)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        to_peft(model, path)
    assert (path / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match="is a file"):
        to_peft(model, path / "notes.txt")


def test_what_fails_leaves_no_file(tmp_path: Path, monkeypatch) -> None:
    model = bert()
    rlr.adapt(model, rank=2, exclude=["classifier"])
    to_peft(model, tmp_path / "a")
    before = (tmp_path / "a" / WEIGHTS).read_bytes()
    monkeypatch.setattr("robust_lowrank.peft.writing.json.dumps", lambda *_, **__: 1 / 0)
    for path in ("a", "b"):
        with pytest.raises(ZeroDivisionError):
            to_peft(model, tmp_path / path)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == before


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(6, 6)

    def forward(self, x):
        return self.second(self.first(x))


class Cls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls, self.fc = nn.Parameter(torch.zeros(1, 6)), nn.Linear(6, 6)


class Endings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pre_classifier, self.classifier = nn.Linear(6, 6), nn.Linear(6, 6)


class Whole(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("network", "options", "reason"),
    [
        (nn.Sequential(nn.Conv2d(4, 6, 3)), {"method": rlr.TDLRT(tol=0.1)}, "'0' .* in Tucker form"),
        (nn.Sequential(nn.Conv2d(4, 6, 3, dilation=2)), {}, "no dilation"),
        (nn.Sequential(nn.Conv3d(4, 6, (1, 1, 3))), {}, "does not merge"),
        (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), {}, "it is a parameter of a Conv2d"),
        (nn.Sequential(nn.GRU(4, 6)), {}, "it is a parameter of a GRU"),
        (nn.Sequential(Whole(6, 6)), {}, "it is a parameter of a Whole"),
        (nn.Sequential(nn.MultiheadAttention(8, 2)), {"exclude": [".*out_proj"]}, "'0.in_proj_weight.* of a MultiheadAttention"),
        (nn.Sequential(nn.MultiheadAttention(8, 2)), {"include": [".*out_proj"]}, "'0.out_proj' .*around it reads its weight"),
        (Shared(), {}, "it is shared"),
        (Cls(), {"trainable": ["cls"]}, "'cls' .*PEFT saves whole modules alone"),
        (Endings(), {"exclude": ["classifier"], "trainable": [r"classifier\..*"]}, "end that of 'pre_classifier'"),
    ],
)
def test_what_peft_has_nothing_for_is_refused(network: nn.Module, options: dict, reason: str, tmp_path: Path) -> None:
    network = copy.deepcopy(network)
    rlr.adapt(network, **{"rank": 1, "method": "geolora", **options})
    with pytest.raises(UserError, match=re.compile(reason, re.DOTALL)):
        to_peft(network, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_a_network_without_updates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no active updates"):
        to_peft(bert(), tmp_path / "a")
    model = bert()
    rlr.compress(model, rank=2, exclude=["classifier"])
    with pytest.raises(UserError, match="it is compressed"):
        to_peft(model, tmp_path / "a")


def test_names_as_peft_finds_them() -> None:
    assert target_modules({"fc", "b.fc"}, ["a", "fc", "b.fc", "xfc"]) == ["b.fc", "fc"]
    assert target_modules({"fc"}, ["fc", "b.fc"]) == "(fc)"
    assert list(by_name({"fc": 1, "b.fc": 2, "a(b": 3})) == ["b.fc", r"a\(b", "fc"]
    assert saved_whole({"head"}, {"fc"}, ["fc", "head", "forehead"]) == ({"head", "forehead"}, "")
    assert "'layer'" in saved_whole({"layer"}, {"layer.q"}, ["layer", "layer.q"])[1]
    assert "base_layer" in saved_whole({"layer"}, {"q"}, ["layer", "q"])[1]
    assert matching({"a.*fc": 3.0, "fc": 2.0}, "a.b.fc") == 3.0
    assert matching({"fc": 2.0}, "xfc") is None
    for bad in ("(a+)+b", "a*b*c*d*e", "(", "x" * 600):
        with pytest.raises(ValueError, match="pattern"):
            matching({bad: 1.0}, "a" * 60)
