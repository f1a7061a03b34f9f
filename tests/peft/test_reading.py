"""What PEFT wrote computes here what it computed there and trains on; anything else is refused, whatever a file says."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import robust_lowrank as rlr
from robust_lowrank import UserError
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.peft import to_peft
from robust_lowrank.peft.naming import CONFIG, PREFIX, WEIGHTS
from tests.peft.networks import IDS, METHODS, bert, gpt2, logits, peft, trained, under_peft, vision

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
]
PLAIN = {"r": 3, "lora_alpha": 6, "target_modules": ["query", "intermediate.dense"], "modules_to_save": ["classifier"]}


def written(base: nn.Module, path: Path, kind=peft.LoraConfig, **options) -> nn.Module:
    """Write an adapter of PEFT whose factors are random, and return its network."""
    model = peft.get_peft_model(copy.deepcopy(base), kind(**options)).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "ranknum" not in name:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    return model


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_an_adapter_of_peft_trains_on_and_goes_back(method, tmp_path: Path) -> None:
    model, base = bert(), bert()
    source = written(base, tmp_path / "from", **PLAIN)
    report = rlr.from_peft(model, tmp_path / "from", method=method)
    assert set(report.ranks.values()) == {3}
    torch.testing.assert_close(logits(model, IDS), logits(source, IDS), rtol=0, atol=1e-5)
    frozen = {name: each.clone() for name, each in model.named_parameters() if ".base.weight" in name}
    trained(model, IDS)
    assert all(torch.equal(each, model.get_parameter(name)) for name, each in frozen.items())
    assert not torch.allclose(logits(model, IDS), logits(source, IDS), atol=1e-4)
    to_peft(model, tmp_path / "to")
    torch.testing.assert_close(logits(under_peft(base, tmp_path / "to"), IDS), logits(model, IDS), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"rank_pattern": {"query": 5, r"layer.1.intermediate.dense": 2}, "alpha_pattern": {r"^bert.encoder.layer.0.*query": 11}},
        {"bias": "lora_only"},
        {"target_modules": ["word_embeddings", "key"]},
        {"target_modules": r"bert\..*\.(query|value)", "modules_to_save": None},
    ],
)
def test_what_plain_lora_may_say(options: dict, tmp_path: Path) -> None:
    model, base = bert(), bert()
    source = written(base, tmp_path / "a", **(PLAIN | options))
    rlr.from_peft(model, tmp_path / "a")
    torch.testing.assert_close(logits(model, IDS), logits(source, IDS), rtol=0, atol=1e-5)


def test_adalora_of_peft(tmp_path: Path) -> None:
    model, base = bert(), bert()
    source = written(base, tmp_path / "a", peft.AdaLoraConfig, init_r=4, total_step=10, target_modules=["query", "value"])
    rlr.from_peft(model, tmp_path / "a")
    torch.testing.assert_close(logits(model, IDS), logits(source, IDS), rtol=0, atol=1e-5)


def test_conv1d_and_convolutions_of_peft(tmp_path: Path) -> None:
    for name, build, x, targets in (
        ("g", gpt2, IDS, ["c_attn"]),
        ("v", vision, torch.randn(2, 3, 8, 8), ["0", "3", "5", "8", "11"]),
    ):
        model, base = build(), build()
        source = written(base, tmp_path / name, r=2, target_modules=targets)
        rlr.from_peft(model, tmp_path / name)
        torch.testing.assert_close(logits(model, x), logits(source, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["geolora", "condlr", "lora"])
def test_a_fresh_adapter_starts_as_ours_do(method: str, tmp_path: Path) -> None:
    model, base = bert(), bert()
    peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=3, target_modules=["dense"])).save_pretrained(tmp_path / "a")
    rlr.from_peft(model, tmp_path / "a", method=method)
    torch.testing.assert_close(logits(model, IDS), logits(base, IDS), rtol=0, atol=1e-5)
    trained(model, IDS)
    assert not torch.allclose(logits(model, IDS), logits(base, IDS), atol=1e-4)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    written(bert(), tmp_path / "a", **PLAIN)
    return tmp_path / "a"


def refused(path: Path, match: str, model: nn.Module | None = None, **options) -> None:
    model = bert() if model is None else model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    grads = [each.requires_grad for each in model.parameters()]
    with pytest.raises(UserError, match=match):
        rlr.from_peft(model, path, **options)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.state_dict().keys() == before.keys()
    assert [each.requires_grad for each in model.parameters()] == grads


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"peft_type": "LOHA"}, "type 'LOHA'"),
        ({"peft_type": 3}, "peft_type"),
        ({"lora_alpha": "6"}, "lora_alpha"),
        ({"lora_alpha": 1e400}, "no factor of an update"),
        ({"lora_alpha": 0}, "no factor of an update"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "a bias of the updates"),
        ({"layer_replication": [[0, 1]]}, "replicated"),
        ({"init_lora_weights": "pissa_niter_4"}, "plain LoRA"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "too involved"),
        ({"alpha_pattern": {"(": 3}}, "no regular expression"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
        ({"rank_pattern": "x"}, "rank_pattern"),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(change: dict, match: str, plain: Path) -> None:
    config = json.loads((plain / CONFIG).read_text())
    (plain / CONFIG).write_text(json.dumps(config | change))
    refused(plain, match)


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 100_000, "\udcff".encode("utf-8", "surrogatepass").decode("latin1")])
def test_a_configuration_that_is_none_is_refused(text: str, plain: Path) -> None:
    (plain / CONFIG).write_text(text)
    refused(plain, CONFIG)


def test_what_never_ends_or_is_another_file_is_refused(plain: Path) -> None:
    (plain / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1")
    refused(plain, "a pointer of Git LFS")
    (plain / WEIGHTS).write_bytes(b"\xff" * 7 + b"\x7f{")
    refused(plain, "not a safetensors file")
    for name in (WEIGHTS, CONFIG):
        (plain / name).unlink()
        os.mkfifo(plain / name)
        refused(plain, "no regular file")


def test_files_that_lack_or_are_cut_off_are_refused(plain: Path) -> None:
    whole = (plain / WEIGHTS).read_bytes()
    (plain / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(plain, "is damaged")
    (plain / WEIGHTS).unlink()
    refused(plain, f"holds no {WEIGHTS}")
    (plain / "adapter_model.bin").write_bytes(b"x")
    refused(plain, r"adapter_model\.bin, whose reading could run any code")
    (plain / CONFIG).write_text(" " * (5 << 20))
    refused(plain, "larger than any")
    refused(plain / "nowhere", f"holds no {CONFIG}")


QUERY = f"{PREFIX}bert.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({f"{QUERY}.lora_B.weight": None}, "lacks a factor"),
        ({f"{QUERY}.lora_B.weight": torch.zeros(24, 2)}, "do not fit"),
        ({f"{QUERY}.lora_B.weight": torch.full((24, 3), torch.nan)}, "no finite numbers"),
        ({f"{QUERY}.lora_B.weight": torch.zeros(24, 3, dtype=torch.int8)}, "no finite numbers"),
        ({f"{QUERY}.lora_B.weight": torch.zeros(25, 3)}, r"an update of \(25, 24\)"),
        ({f"{QUERY}.lora_B.weight": torch.zeros(0)}, "do not fit"),
        ({f"{QUERY}.lora_magnitude_vector": torch.ones(24)}, "no factor"),
        ({"other.weight": torch.ones(2)}, "does not begin with"),
        ({f"{PREFIX}nowhere.lora_A.weight": torch.ones(1, 2), f"{PREFIX}nowhere.lora_B.weight": torch.ones(2, 1)}, "lacks"),
        (
            {f"{PREFIX}bert.lora_A.weight": torch.ones(1, 2), f"{PREFIX}bert.lora_B.weight": torch.ones(2, 1)},
            "'bert', a BertModel, which has no weight",
        ),
        ({f"{PREFIX}classifier.weight": torch.ones(2, 2)}, "'classifier.weight' of"),
        ({f"{PREFIX}../../etc.weight": torch.ones(2, 2)}, "which the network lacks"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: dict, match: str, plain: Path) -> None:
    tensors = {key: value for key, value in (load_file(plain / WEIGHTS) | change).items() if value is not None}
    save_file(tensors, plain / WEIGHTS)
    refused(plain, match)


def test_networks_that_an_adapter_does_not_fit_are_refused(plain: Path, tmp_path: Path) -> None:
    refused(plain, "modules with such an ending: none", gpt2())
    quantised = bert()
    layer = quantised.bert.encoder.layer[0].attention.self.query
    layer.weight = nn.Parameter(torch.zeros(24, 24, dtype=torch.int8), requires_grad=False)
    refused(plain, "it is int8", quantised)
    wrapped = peft.get_peft_model(bert(), peft.LoraConfig(target_modules=["key"]))
    refused(plain, "is a layer of PEFT", wrapped.base_model.model)
    adapted = bert()
    rlr.adapt(adapted, rank=2, include=".*query")
    with pytest.raises(UserError, match="frozen base of an adapter"):
        rlr.from_peft(adapted, plain)
    base = nn.Sequential(nn.Conv2d(4, 4, 3))
    written(base, tmp_path / "c", r=2, target_modules=["0"])
    refused(tmp_path / "c", "Tucker form", base, method=rlr.TDLRT(tol=0.1))
    refused(tmp_path / "c", "groups or a dilation", nn.Sequential(nn.Conv2d(4, 4, 3, dilation=2)))
    refused(plain, "no low-rank update to train", method="cayley-sgd")


def test_peft_is_not_needed_to_read_and_write() -> None:
    for path in Path(rlr.__file__).parent.rglob("*.py"):
        assert "import peft" not in path.read_text() and "from peft" not in path.read_text(), path


def test_an_adapter_is_read_beside_others(plain: Path) -> None:
    model, base = bert(), bert()
    rlr.adapt(model, rank=2, exclude=["classifier"])
    rlr.from_peft(model, plain, name="theirs")
    torch.testing.assert_close(logits(model, IDS), logits(under_peft(base, plain), IDS), rtol=0, atol=1e-5)
    assert {name.rpartition(".")[2] for name, _ in named_factored_layers(model)} == {"update", "update_theirs"}
