"""This package loads data sets by name or path, images in [0, 1] with labels, from local files or through torchvision."""

from robust_lowrank.data.catalogue import DATASETS as DATASETS
from robust_lowrank.data.catalogue import default_data_dir as default_data_dir
from robust_lowrank.data.catalogue import describe as describe
from robust_lowrank.data.catalogue import load as load
from robust_lowrank.data.catalogue import load_examples as load_examples
from robust_lowrank.data.dataset import Dataset as Dataset
from robust_lowrank.data.dataset import Description as Description
from robust_lowrank.data.dataset import Examples as Examples
from robust_lowrank.data.dataset import digest as digest
from robust_lowrank.data.dataset import unit_range as unit_range
from robust_lowrank.data.reading import Progress as Progress
from robust_lowrank.data.reading import Reading as Reading
