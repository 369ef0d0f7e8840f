"""(config, step) -> batch: sources, decoding, transforms, and the pipeline that brings them together."""

from vision.data.catalog import open_source
from vision.data.check import check
from vision.data.pipeline import Pipeline, create, from_images
from vision.data.source import Source

__all__ = ["Pipeline", "Source", "check", "create", "from_images", "open_source"]
