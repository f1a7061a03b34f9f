"""Networks of torchvision and timm, each as a small variant and as its library has it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.detection import FasterRCNN, fasterrcnn_mobilenet_v3_large_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3, deeplabv3_mobilenet_v3_large
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vgg import make_layers
from torchvision.models.video import r3d_18
from torchvision.models.video.resnet import BasicBlock as VideoBlock
from torchvision.models.video.resnet import BasicStem, Conv3DSimple, VideoResNet
from torchvision.ops import StochasticDepth

from tests.networks.network import Inputs, Network

CLASSES = 5
EVERYTHING = {
    **{f"rpn_{kind}_nms_top_n_{mode}": 10**6 for kind in ("pre", "post") for mode in ("train", "test")},
    "rpn_nms_thresh": 1.0,
    "rpn_batch_size_per_image": 10**6,
    "rpn_positive_fraction": 1.0,
    "box_nms_thresh": 1.0,
    "box_batch_size_per_image": 10**6,
    "box_positive_fraction": 1.0,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 10**6,
    "min_size": 64,
    "max_size": 64,
}  # no proposal is dropped or drawn, which would depend on the last digits of scores


def images(size: int, *, batch: int = 4) -> Callable[[], Inputs]:
    return lambda: {"x": torch.rand(batch, 3, size, size)}


def shortened(model: Any, width: int) -> nn.Module:
    """Return a residual network without its last two stages, whose widths the constructor fixes."""
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(width, CLASSES)
    return model


def vgg(widths: list[int | str], hidden: int) -> nn.Module:
    """Return a VGG with a small classifier: that of the paper has 124 million of its 138 million parameters."""
    with torch.device("meta"):
        model = models.VGG(nn.Identity(), init_weights=False)
    model.features = make_layers(widths, batch_norm=True)
    last = max(width for width in widths if isinstance(width, int))
    model.classifier = nn.Sequential(
        nn.Linear(49 * last, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES)
    )
    return model


VGG16: list[int | str] = [64, 64, "M", 128, 128, "M", *([256] * 3), "M", *([512] * 3), "M", *([512] * 3), "M"]


def swin(**options: Any) -> nn.Module:
    return SwinTransformer(
        patch_size=[4, 4],
        embed_dim=16,
        depths=[2, 1],
        num_heads=[2, 4],
        window_size=[4, 4],
        stochastic_depth_prob=0.0,
        num_classes=CLASSES,
        **options,
    )


def at_full_depth(model: nn.Module) -> nn.Module:
    """Return a network whose blocks are never left out, where the constructor has no option for that."""
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    return model


def small_detector() -> nn.Module:
    features = models.mobilenet_v3_small(width_mult=0.5).features
    backbone = BackboneWithFPN(features, {"3": "0", "8": "1"}, [16, 24], 16)
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    heads = {"box_head": TwoMLPHead(16 * 49, 32), "box_predictor": FastRCNNPredictor(32, CLASSES)}
    return FasterRCNN(backbone, rpn_anchor_generator=anchors, **heads, **EVERYTHING)


def scenes() -> Inputs:
    targets = [{"boxes": torch.tensor([[4.0, 8.0, 36.0, 40.0]]), "labels": torch.tensor([label])} for label in (1, 2)]
    return {"images": list(torch.rand(2, 3, 64, 64)), "targets": targets}


def detected(output: Any) -> Tensor:
    """Return the losses of a detector that trains, else its scores, sorted."""
    if isinstance(output, dict):
        return torch.stack(list(output.values()))
    return torch.cat([scene["scores"].sort().values for scene in output])


def detection_loss(output: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(output.values())).sum()


def small_segmenter() -> nn.Module:
    features = models.mobilenet_v3_small(width_mult=0.5).features
    return DeepLabV3(IntermediateLayerGetter(features, {"8": "out"}), DeepLabHead(24, CLASSES))


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=CLASSES, **options)


def mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(CLASSES, 64, patch_size=16, num_blocks=2, embed_dim=32)


def convmixer() -> nn.Module:
    from timm.models.convmixer import ConvMixer

    return ConvMixer(32, 2, kernel_size=7, num_classes=CLASSES)


def free_of_norms(depths: tuple[int, ...], channels: tuple[int, ...]) -> nn.Module:
    from timm.models.nfnet import NfCfg, NormFreeNet

    shape = {"depths": depths, "channels": channels, "stem_type": "7x7_pool", "stem_chs": channels[0] // 4}
    return NormFreeNet(NfCfg(**shape, bottle_ratio=0.25, act_layer="relu"), num_classes=CLASSES)


pictures = partial(Network, inputs=images(64))
detector = partial(Network, inputs=scenes, tensor=detected, loss=detection_loss, dtype=torch.float64)
SMALL = {
    "resnet18": pictures(make=lambda: shortened(ResNet(BasicBlock, [1, 1, 1, 1]), 128)),
    "vgg16_bn": pictures(make=lambda: vgg([8, 8, "M", 16, 16, "M", 32, 32, "M"], 32)),
    "mobilenet_v3_small": pictures(
        make=lambda: models.mobilenet_v3_small(width_mult=0.5, dropout=0.0, num_classes=CLASSES), inputs=images(64, batch=8)
    ),
    "efficientnet_b0": pictures(
        make=lambda: EfficientNet(
            [MBConvConfig(1, 3, 1, 16, 8, 1), MBConvConfig(6, 3, 2, 8, 12, 2), MBConvConfig(6, 5, 2, 12, 20, 2)],
            dropout=0.0,
            stochastic_depth_prob=0.0,
            num_classes=CLASSES,
            last_channel=64,
        )
    ),
    "convnext_tiny": pictures(
        make=lambda: ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)], layer_scale=1.0, num_classes=CLASSES)
    ),
    "swin_t": pictures(make=swin),
    "swin_v2_t": pictures(make=lambda: swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)),
    "vit_b_16": pictures(make=lambda: models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=CLASSES)),
    "densenet121": pictures(make=lambda: models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=CLASSES)),
    "r3d_18": Network(
        make=lambda: shortened(VideoResNet(VideoBlock, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem), 128),
        inputs=lambda: {"x": torch.rand(2, 3, 4, 32, 32)},
    ),
    "fasterrcnn_mobilenet": detector(make=small_detector),
    "deeplabv3": pictures(make=small_segmenter, tensor=lambda output: output["out"]),
    "vit_tiny": pictures(
        make=lambda: timm_model("vit_tiny_patch16_224", img_size=64, embed_dim=32, depth=2, num_heads=2), needs="timm"
    ),
    "eva02": pictures(
        make=lambda: timm_model("eva02_tiny_patch14_224", img_size=56, embed_dim=32, depth=2, num_heads=2),
        inputs=images(56),
        needs="timm",
    ),
    "mixer": pictures(make=mixer, needs="timm"),
    "convmixer": pictures(make=convmixer, needs="timm"),
    "nf_resnet26": pictures(make=lambda: free_of_norms((1, 1), (32, 64)), needs="timm"),
}
FULL = {
    "resnet18": pictures(make=models.resnet18),
    "vgg16_bn": pictures(make=lambda: vgg(VGG16, 256), inputs=images(32)),
    "mobilenet_v3_small": pictures(make=lambda: models.mobilenet_v3_small(dropout=0.0), inputs=images(64, batch=8)),
    "efficientnet_b0": pictures(make=lambda: models.efficientnet_b0(dropout=0.0, stochastic_depth_prob=0.0)),
    "convnext_tiny": pictures(make=lambda: models.convnext_tiny(stochastic_depth_prob=0.0, layer_scale=1.0)),
    "swin_t": pictures(make=lambda: at_full_depth(models.swin_t())),
    "swin_v2_t": pictures(make=lambda: at_full_depth(models.swin_v2_t())),
    "vit_b_16": pictures(make=models.vit_b_16, inputs=images(224, batch=1)),
    "densenet121": pictures(make=models.densenet121),
    "r3d_18": Network(make=r3d_18, inputs=lambda: {"x": torch.rand(2, 3, 4, 32, 32)}),
    "fasterrcnn_mobilenet": detector(
        make=lambda: fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, **EVERYTHING)
    ),
    "deeplabv3": pictures(
        make=lambda: deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None), tensor=lambda output: output["out"]
    ),
    "vit_tiny": pictures(make=lambda: timm_model("vit_tiny_patch16_224"), inputs=images(224, batch=1), needs="timm"),
    "eva02": pictures(make=lambda: timm_model("eva02_tiny_patch14_224"), inputs=images(224, batch=1), needs="timm"),
    "mixer": pictures(make=lambda: timm_model("mixer_s32_224"), inputs=images(224, batch=1), needs="timm"),
    "convmixer": pictures(make=lambda: timm_model("convmixer_768_32"), needs="timm", dtype=torch.float64),
    "nf_resnet26": pictures(make=lambda: timm_model("nf_resnet26"), needs="timm"),
}
