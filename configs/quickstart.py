"""A small ResNet on real handwritten digits, from the first command to pictures of its mistakes.

    python -m launch.train --config=configs/quickstart.py

Cost: MEASURED. Expected: at least 98 % of the 360 test images right.
"""

from configs import digits


def get_config():
    """The digits recipe for a small ResNet."""
    return digits.get_config("resnet")
