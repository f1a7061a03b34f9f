"""Networks of transformers: directories with factors, dense exports, files of adapters alone."""

import pytest
import torch
from torch import Tensor, nn

import robust_lowrank as rlr
from robust_lowrank.layers import named_factored_layers

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 31}
NETWORKS = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SMALL)),
    "mixtral": lambda: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=2, bos_token_id=1, eos_token_id=2)
    ),
}
each_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
TOKENS = torch.arange(10).reshape(2, 5)


def logits(model: nn.Module) -> Tensor:
    return model(TOKENS)[0]


@each_network
def test_a_directory_of_factors(build, tmp_path) -> None:
    model = build().eval()
    rlr.compress(model, method="dlrt", rank=0.5)
    rlr.save_pretrained(model, tmp_path)
    read = rlr.from_pretrained(type(model), tmp_path)
    assert torch.equal(logits(read), logits(model))
    assert {name: layer.method for name, layer in named_factored_layers(read)} == {
        name: layer.method for name, layer in named_factored_layers(model)
    }
    auto = transformers.AutoModel if "Bert" in type(model).__name__ else transformers.AutoModelForCausalLM
    assert torch.equal(logits(rlr.from_pretrained(auto, tmp_path)), logits(model))
    with pytest.raises(OSError, match=r"model\.safetensors"):
        type(model).from_pretrained(tmp_path)  # no weights that it could take for its own


@each_network
def test_a_dense_export_is_a_network_of_transformers(build, tmp_path) -> None:
    model = build().eval()
    rlr.compress(model, method="condlr", rank=0.5)
    rlr.export(model, to="dense").save_pretrained(tmp_path)
    torch.testing.assert_close(logits(type(model).from_pretrained(tmp_path)), logits(model), rtol=1e-4, atol=1e-5)


@each_network
@pytest.mark.parametrize("method", ["geolora", "condlr", "lora"])
def test_a_file_of_an_adapter_alone(build, method: str, tmp_path) -> None:
    model, other = build().eval(), build().eval()
    other.load_state_dict(model.state_dict())
    rlr.adapt(model, method=method, rank=2)
    for _, layer in named_factored_layers(model):
        layer.core.data += 0.1 * torch.randn_like(layer.core)
    rlr.save(model, tmp_path / "whole.safetensors")
    rlr.save(model, tmp_path / "adapter.safetensors", frozen=False)
    torch.testing.assert_close(logits(rlr.load(other, tmp_path / "adapter.safetensors")), logits(model))
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("adapter", "whole")]
    assert sizes[0] < (1.0 if method == "condlr" else 0.5) * sizes[1]  # condlr took a part of the frozen weights, and keeps them


def test_what_is_no_network_of_transformers(tmp_path) -> None:
    with pytest.raises(rlr.UserError, match=r"take rlr\.save"):
        rlr.save_pretrained(nn.Linear(2, 2), tmp_path)
    with pytest.raises(rlr.UserError, match=r"holds no config\.json"):
        rlr.from_pretrained(transformers.BertModel, tmp_path)
    model = NETWORKS["bert"]()
    rlr.compress(model, method="dlrt", rank=0.5)
    rlr.save_pretrained(model, tmp_path)
    with pytest.raises(rlr.UserError, match="does not fit this network"):
        rlr.from_pretrained(transformers.AutoModelForSequenceClassification, tmp_path)
