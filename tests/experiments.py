"""An experiment of seconds."""

TINY = """
name = "tiny"
[data]
name = "digits"
train_examples = 256
[model]
name = "cnn"
[training]
epochs = 1
batch_size = 64
[[methods]]
name = "dense"
[[methods]]
name = "condlr"
[[attacks]]
suite = "quick"
eps = 0.1
examples = 10
"""
