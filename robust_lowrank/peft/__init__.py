"""Files of PEFT's LoRA adapters are written and read; the package `peft` itself is not needed."""

from robust_lowrank.peft.reading import PeftFile as PeftFile
from robust_lowrank.peft.reading import read_peft as read_peft
from robust_lowrank.peft.writing import to_peft as to_peft
