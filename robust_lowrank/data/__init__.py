"""This package loads data sets by name, images in [0, 1] with labels, from local files or through torchvision."""

from robust_lowrank.data.arrays import Examples as Examples
from robust_lowrank.data.arrays import load_arrays as load_arrays
from robust_lowrank.data.arrays import load_examples as load_examples
from robust_lowrank.data.catalogue import DATASETS as DATASETS
from robust_lowrank.data.catalogue import default_data_dir as default_data_dir
from robust_lowrank.data.catalogue import load as load
from robust_lowrank.data.dataset import Dataset as Dataset
from robust_lowrank.data.dataset import digest as digest
from robust_lowrank.data.dataset import unit_range as unit_range
