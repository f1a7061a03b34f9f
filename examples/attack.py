# %% [markdown]
# # Two networks, attacked and compared
#
# One is trained on clean digits, one on those that harm it most. Does it help, and do so many examples show it?

# %%
import torch
from torch.nn.functional import cross_entropy

import robust_lowrank as rlr
from robust_lowrank.statistics import pairwise

digits = rlr.data.load("digits")
x, y = digits.test_x[:100], digits.test_y[:100]
EPS = 0.1


def moved(model, images, labels):
    images = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(images), labels), images)
    return (images + EPS * gradient.sign()).clamp(0, 1).detach()


def trained(adversarially):
    torch.manual_seed(0)
    model = rlr.models.build("mlp", input_shape=digits.input_shape, num_classes=digits.num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(10):
        for index in torch.randperm(len(digits.train_y)).split(64):
            images, labels = digits.train_x[index], digits.train_y[index]
            images = moved(model, images, labels) if adversarially else images
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model.eval()


# %% [markdown]
# Accuracies with their intervals, and what the audit says of them:

# %%
results = {name: rlr.evaluate(trained(name == "adversarial"), x, y, suite="quick", eps=EPS) for name in ("clean", "adversarial")}
for name, result in results.items():
    print(name, result, sep="\n")

# %% [markdown]
# An example holds if no attack broke it. The paired test looks at those on which the two networks differ:


# %%
def held(result):
    verdicts = result.verdicts.assign(held=result.verdicts["verdict"] == "robust")
    return verdicts.groupby("example")["held"].all().to_numpy()


(test,) = pairwise({name: held(result) for name, result in results.items()})
print(f"{test.only_a} held by {test.a} alone, {test.only_b} by {test.b} alone; difference {test.difference}, p = {test.p:.1g}")

assert held(results["adversarial"]).mean() > held(results["clean"]).mean()
