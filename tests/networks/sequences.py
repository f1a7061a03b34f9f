"""Networks over sequences, of transformers and of torch, each as a small variant and at its published size."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from tests.networks.network import Inputs, Network

WORDS = 99
IDS = {"vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DRAWN = {"initializer_range": 0.2}  # the 0.02 of large networks would leave nothing of these to be seen in an output
DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PICTURE = {"image_size": 32, "patch_size": 8}


def hugging(kind: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a maker of a transformers class with random weights; nothing is downloaded."""

    def make() -> nn.Module:
        import transformers

        return getattr(transformers, kind)(getattr(transformers, f"{config}Config")(**options))

    return make


def words(*names: str, length: int = 16) -> Callable[[], Inputs]:
    return lambda: {name: torch.randint(3, WORDS, (2, length)) for name in names}


def pictures(size: int = 32) -> Inputs:
    return {"pixel_values": torch.rand(2, 3, size, size)}


def speech(bands: int, frames: int) -> Inputs:
    return {"input_features": torch.rand(2, bands, frames), **words("decoder_input_ids")()}


def states_and_pooled(output: Any) -> Tensor:
    return torch.cat([output.last_hidden_state, output.pooler_output[:, None]], dim=1)


class UNet(nn.Module):
    """A U-Net with transposed convolutions."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        pairs = list(pairwise(widths))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(thin, wide, 3, stride=2, padding=1) for thin, wide in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(wide, thin, 2, stride=2) for thin, wide in reversed(pairs))
        self.fuse = nn.ModuleList(nn.Conv2d(2 * thin, thin, 3, padding=1) for thin, _ in reversed(pairs))
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.stem(x)]
        for down in self.down:
            levels.append(down(levels[-1].relu()))
        x = levels.pop()
        for up, fuse in zip(self.up, self.fuse, strict=True):
            x = fuse(torch.cat([up(x.relu()), levels.pop()], dim=1))
        return self.head(x.relu())


def transformer(width: int, **shape: int) -> Network:
    return Network(
        make=lambda: nn.Transformer(width, **shape, dropout=0.0, batch_first=True),
        inputs=lambda: {"src": torch.randn(2, 7, width), "tgt": torch.randn(2, 5, width)},
    )


def recurrent(kind: type[nn.RNNBase], width: int, hidden: int) -> Network:
    return Network(
        make=lambda: kind(width, hidden, 2, batch_first=True, bidirectional=True),
        inputs=lambda: {"input": torch.randn(2, 6, width)},
        tensor=itemgetter(0),
    )


def bert(**options: Any) -> Network:
    return hf(make=hugging("BertModel", "Bert", **DRY, **options), inputs=words("input_ids"), tensor=states_and_pooled)


def gpt2(**options: Any) -> Network:
    dry = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return hf(make=hugging("GPT2LMHeadModel", "GPT2", **dry, **options), inputs=words("input_ids"))


def t5(**options: Any) -> Network:
    make = hugging("T5ForConditionalGeneration", "T5", dropout_rate=0.0, **options)
    return hf(make=make, inputs=words("input_ids", "decoder_input_ids"))


def causal(family: str, **options: Any) -> Network:
    return hf(make=hugging(f"{family}ForCausalLM", family, **options), inputs=words("input_ids"))


def clip(size: int, **options: Any) -> Network:
    make = hugging("CLIPModel", "CLIP", **options)
    return hf(make=make, inputs=lambda: words("input_ids")() | pictures(size), tensor=attrgetter("logits_per_image"))


def whisper(bands: int, frames: int, **options: Any) -> Network:
    make = hugging("WhisperForConditionalGeneration", "Whisper", dropout=0.0, num_mel_bins=bands, **options)
    return hf(make=make, inputs=lambda: speech(bands, frames))


hf = partial(Network, tensor=attrgetter("logits"), needs="transformers")
UNET_INPUTS = {"inputs": lambda: {"x": torch.randn(2, 3, 32, 32)}}
SMALL = {
    "BERT": bert(**SMALL_SHAPE, **DRAWN, **IDS),
    "GPT-2": gpt2(n_embd=32, n_layer=2, n_head=2, n_positions=32, **DRAWN, **IDS),
    "T5": t5(d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2, vocab_size=WORDS),
    "ViT": hf(make=hugging("ViTForImageClassification", "ViT", **SMALL_SHAPE, **DRAWN, **DRY, **PICTURE), inputs=pictures),
    "CLIP": clip(
        32,
        text_config={**SMALL_SHAPE, **DRAWN, **IDS, "max_position_embeddings": 32},
        vision_config={**SMALL_SHAPE, **DRAWN, **PICTURE},
        projection_dim=16,
        initializer_factor=4.0,
    ),
    "Llama": causal("Llama", **SMALL_SHAPE, **DRAWN, **IDS, num_key_value_heads=1),
    "Mixtral": causal("Mixtral", **SMALL_SHAPE, **DRAWN, **IDS, num_key_value_heads=1, num_local_experts=4),
    "Mamba": causal("Mamba", hidden_size=32, num_hidden_layers=2, **DRAWN, **IDS),
    "Whisper": whisper(
        16,
        40,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=20,
        max_target_positions=16,
        init_std=0.2,
        decoder_start_token_id=1,
        **IDS,
    ),
    "nn.Transformer": transformer(32, nhead=2, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=64),
    "nn.LSTM": recurrent(nn.LSTM, 16, 24),
    "nn.GRU": recurrent(nn.GRU, 16, 24),
    "U-Net": Network(make=lambda: UNet(8, 2), **UNET_INPUTS),
}
FULL = {
    "BERT": bert(),
    "GPT-2": gpt2(),
    "T5": t5(),
    "ViT": hf(make=hugging("ViTForImageClassification", "ViT"), inputs=partial(pictures, 224)),
    "CLIP": clip(224),
    "Llama": causal("Llama"),
    "Mixtral": causal("Mixtral"),
    "Mamba": causal("Mamba"),
    "Whisper": whisper(80, 3000),
    "nn.Transformer": transformer(512),
    "nn.LSTM": recurrent(nn.LSTM, 512, 512),
    "nn.GRU": recurrent(nn.GRU, 512, 512),
    "U-Net": Network(make=lambda: UNet(64, 4), **UNET_INPUTS),
}
