"""Images in: where they come from, how they are read, and in what batches they arrive."""

from debride.data.batches import unpack
from debride.data.images import ImageSource, Record, open_images
from debride.data.loading import loader, sample
from debride.data.preprocessing import Preprocessing, measure_normalisation

__all__ = [
    "ImageSource",
    "Preprocessing",
    "Record",
    "loader",
    "measure_normalisation",
    "open_images",
    "sample",
    "unpack",
]
