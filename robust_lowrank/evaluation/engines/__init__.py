"""The attacks, one file each: pure functions of a model, inputs, labels, a threat model and keyed noise."""
