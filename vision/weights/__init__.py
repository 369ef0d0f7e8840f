"""Weights of other projects: read without executing anything, renamed by rules, and written back under their names."""

from vision.weights.files import load, read, save
from vision.weights.preprocessing import Preprocessing, imagenet_classes, preprocessing
from vision.weights.sources import RULES, detect
from vision.weights.state_dict import from_state_dict, to_state_dict

__all__ = [
    "RULES",
    "Preprocessing",
    "detect",
    "from_state_dict",
    "imagenet_classes",
    "load",
    "preprocessing",
    "read",
    "save",
    "to_state_dict",
]
