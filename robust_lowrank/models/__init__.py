"""Reference architectures by name; any other `nn.Module` works with the library just as well."""

from robust_lowrank.models.catalogue import MODELS as MODELS
from robust_lowrank.models.catalogue import build as build
from robust_lowrank.models.catalogue import classifier as classifier
from robust_lowrank.models.normalize import Normalize as Normalize
from robust_lowrank.models.resnet import ResNet20 as ResNet20
