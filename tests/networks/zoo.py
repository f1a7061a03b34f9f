"""The networks that tests and docs/networks.md take in: small ones to be run, and full ones to be counted and run slowly."""

from tests.networks import sequences, vision

SMALL = vision.SMALL | sequences.SMALL
FULL = vision.FULL | sequences.FULL
LARGE = {
    *("vit_b_16", "ViT", "BERT", "GPT-2", "T5", "CLIP", "Llama", "Mixtral", "Mamba", "Whisper", "nn.Transformer"),
}  # counted at full size, and run as small ones alone
