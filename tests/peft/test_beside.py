"""A network that PEFT has adapted: nothing of it is touched."""

import pytest
import torch

import robust_lowrank as rlr
from robust_lowrank import UserError
from tests.peft.networks import IDS, bert, logits, peft

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft.*"),
]


@pytest.mark.parametrize("kind", [peft.LoraConfig, peft.LoHaConfig, peft.IA3Config])
def test_compress_leaves_the_layers_of_peft(kind) -> None:
    options = {} if kind is peft.IA3Config else {"r": 3}
    targets = {"feedforward_modules": ["intermediate.dense"]} if kind is peft.IA3Config else {}
    config = kind(target_modules=["query", "intermediate.dense"], modules_to_save=["classifier"], **options, **targets)
    model = peft.get_peft_model(bert(), config).eval()
    before = {name: each.clone() for name, each in model.named_parameters() if each.requires_grad}
    due = logits(model, IDS)
    table = rlr.plan(model, method="svd", rank=1.0).set_index("layer")
    inside = [name for name in table.index if "query" in name or "intermediate" in name or "classifier" in name]
    assert len(inside) >= 6
    assert all("layer of PEFT" in table.loc[name, "kept_dense"] for name in inside)
    rlr.compress(model, method="svd", rank=1.0)
    assert {name for name, each in model.named_parameters() if name in before and each.requires_grad} == set(before)
    torch.testing.assert_close(logits(model, IDS), due, rtol=0, atol=1e-5)


def test_adapt_does_not_freeze_adapters_of_peft() -> None:
    model = peft.get_peft_model(bert(), peft.LoraConfig(r=3, target_modules=["query"]))
    training = [name for name, each in model.named_parameters() if each.requires_grad]
    with pytest.raises(UserError, match="is a layer of PEFT, whose adapter would be frozen"):
        rlr.adapt(model, rank=2)
    assert [name for name, each in model.named_parameters() if each.requires_grad] == training
