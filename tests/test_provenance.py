import torch

from robust_lowrank.provenance import digest_definition, digest_tensors


def test_digests_see_names_types_shapes_and_values_but_not_order():
    one = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    assert digest_tensors(one) == digest_tensors(dict(reversed(one.items())))
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "c": torch.ones(1)},
        {"a": torch.zeros(2, 3).half(), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3), "b": torch.full((1,), 1 + 2**-23)},
    ]
    assert len({digest_tensors(tensors) for tensors in [one, *others]}) == 5
    assert digest_definition({"x": 1, "y": [2]}) == digest_definition({"y": [2], "x": 1})
