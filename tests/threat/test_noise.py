import pytest
import torch

from robust_lowrank.threat import KeyedNoise
from robust_lowrank.threat.noise import mix


def splitmix64_finaliser(word: int) -> int:
    mask = 2**64 - 1
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    return word ^ (word >> 31)


def test_mixing_is_that_of_splitmix64(device):
    words = [0, 1, 0x9E3779B97F4A7C15, 2**63, 2**64 - 1, 123456789123456789]
    signed = torch.tensor([word - 2**64 if word >= 2**63 else word for word in words], device=device)
    assert [word % 2**64 for word in mix(signed).tolist()] == [splitmix64_finaliser(word) for word in words]


def test_noise_belongs_to_the_example_not_to_its_batch(device):
    everything = KeyedNoise(3, "pgd", torch.arange(50, device=device)).uniform((2, 4))
    rows = torch.tensor([41, 7, 0], device=device)
    assert torch.equal(KeyedNoise(3, "pgd", rows).uniform((2, 4)), everything[rows])
    alone = [KeyedNoise(3, "pgd", row[None]).normal((9,)) for row in rows]
    assert torch.equal(torch.cat(alone), KeyedNoise(3, "pgd", rows).normal((9,)))


def test_every_part_of_the_key_changes_the_noise():
    base = KeyedNoise(0, "pgd", torch.arange(3))
    others = [
        KeyedNoise(1, "pgd", torch.arange(3)),
        KeyedNoise(0, "apgd", torch.arange(3)),
        KeyedNoise(0, "pgd", torch.arange(3, 6)),
        base.at(restart=1),
        base.at(step=1),
    ]
    draws = [base.uniform((5,)), base.uniform((5,), stream=1), *(noise.uniform((5,)) for noise in others)]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)


def test_numbers_are_uniform_normal_and_independent():
    noise = KeyedNoise(0, "test", torch.arange(400))
    uniform, normal = noise.uniform((250,)), noise.normal((250,))
    assert 0 < uniform.min() < 1e-4
    assert 1 - 1e-4 < uniform.max() < 1
    counts = torch.histc(uniform, bins=20, min=0, max=1)
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001
    assert normal.mean().abs() < 0.015
    assert normal.std() == pytest.approx(1, abs=0.015)
    assert torch.corrcoef(uniform).fill_diagonal_(0).abs().max() < 0.35  # between examples, 250 numbers each
    assert torch.corrcoef(uniform.T).fill_diagonal_(0).abs().max() < 0.3  # between positions, 400 numbers each
