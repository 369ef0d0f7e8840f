"""Weights of GoogLeNet in torchvision's naming."""

from vision.weights.inception import dense, unit
from vision.weights.rules import Rule, dense_after_map

TORCHVISION: tuple[Rule, ...] = (
    *unit("conv([123])", "conv_<1>"),
    *unit(r"inception(\d[a-e])\.branch1", "inception_<1>/branch_1/unit_1"),
    *unit(r"inception(\d[a-e])\.branch([23])\.([01])", "inception_<1>/branch_<2>/unit_<3+1>"),
    *unit(r"inception(\d[a-e])\.branch4\.1", "inception_<1>/branch_4/unit_1"),
    *unit(r"aux([12])\.conv", "auxiliary_<1>/unit"),
    Rule(r"aux([12])\.fc1\.weight", "params/auxiliary_<1>/dense/kernel", dense_after_map(128, 4, 4)),
    Rule(r"aux([12])\.fc1\.bias", "params/auxiliary_<1>/dense/bias"),
    *dense(r"aux([12])\.fc2", "auxiliary_<1>/head"),
    *dense("fc", "head"),
)
