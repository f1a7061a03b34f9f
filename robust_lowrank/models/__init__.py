"""This package makes reference architectures by name, and loads any other classifier; every `nn.Module` works with the library."""

from robust_lowrank.models.catalogue import MODELS as MODELS
from robust_lowrank.models.catalogue import build as build
from robust_lowrank.models.catalogue import classifier as classifier
from robust_lowrank.models.foreign import Foreign as Foreign
from robust_lowrank.models.foreign import load_foreign as load_foreign
from robust_lowrank.models.making import make as make
from robust_lowrank.models.normalize import Normalize as Normalize
from robust_lowrank.models.normalize import normalised as normalised
from robust_lowrank.models.resnet import ResNet20 as ResNet20
from robust_lowrank.models.skeleton import skeleton as skeleton
from robust_lowrank.models.standalone import load_standalone as load_standalone
