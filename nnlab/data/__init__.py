"""The data sets, checked at every load, and the loader of mini-batches from tensors on one device."""

from nnlab.data.distortion import Distortion
from nnlab.data.idx import DataError, IdxFile, read_idx, write_idx
from nnlab.data.loader import Chunk, Copies, CopiesLoader, ResidentLoader
from nnlab.data.mnist import (
    SPECS,
    SPLITS,
    DataSpec,
    FileSpec,
    ImageSplit,
    Split,
    default_root,
    load,
    load_split,
    raw_folder,
    verify,
)
from nnlab.data.own import Own, load_own, spec_of
from nnlab.data.sources import ensure

__all__ = [
    "SPECS",
    "SPLITS",
    "Chunk",
    "Copies",
    "CopiesLoader",
    "DataError",
    "DataSpec",
    "Distortion",
    "FileSpec",
    "IdxFile",
    "ImageSplit",
    "Own",
    "ResidentLoader",
    "Split",
    "default_root",
    "ensure",
    "load",
    "load_own",
    "load_split",
    "raw_folder",
    "read_idx",
    "spec_of",
    "verify",
    "write_idx",
]
