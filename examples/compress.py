# %% [markdown]
# # A trained network, compressed and trained again
#
# Factors start from the network's own weights, and a bound on their condition numbers holds from then on.

# %%
import torch
from torch.nn.functional import cross_entropy

import robust_lowrank as rlr

torch.manual_seed(0)
digits = rlr.data.load("digits")
model = rlr.models.build("cnn", input_shape=digits.input_shape, num_classes=digits.num_classes)


def train(optimizer, epochs):
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(digits.train_y)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(digits.train_x[index]), digits.train_y[index]).backward()
            optimizer.step()


def accuracy():
    return (model.eval()(digits.test_x).argmax(1) == digits.test_y).double().mean().item()


train(torch.optim.AdamW(model.parameters(), lr=0.003), epochs=5)
dense = accuracy()
print(f"{dense:.1%}")

# %% [markdown]
# What each layer becomes, and how far the first factors are from the trained weights:

# %%
report = rlr.compress(model, method="condlr", rank=0.5, exclude=["fc2"])
print(report)
print(f"{accuracy():.1%}")

# %% [markdown]
# Trained again, by the same loop and another optimizer:

# %%
train(rlr.LowRankOptimizer(model, torch.optim.AdamW, lr=0.003), epochs=5)
layers = rlr.spectra(model)
print(layers[["layer", "rank", "cond"]])
print(f"{accuracy():.1%} after {dense:.1%}")

assert layers[layers["factored"]]["cond"].max() <= 1.1 + 1e-4
assert accuracy() > 0.9

# %% [markdown]
# For inference, as ordinary layers of torch:

# %%
plain = rlr.export(model, to="auto", example_input=digits.test_x[:16])
print(plain)
