"""A file with a column of objects that uproot understands and cannot make arrays of."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import uproot

COLUMN = "thing"
CLASS = "TH1F"  # has lists of objects of any class, as those of some experiments have
_BYTE_COUNT = 0x40000000
_NEW_CLASS = b"\xff\xff\xff\xff"
# What is before the first object of an array: its size, version, base class, name and numbers.
_BEFORE_FIRST = 4 + 2 + 10 + 1 + 4 + 4


def write_unreadable(path: Path) -> str:
    """Write a tree ``Events`` of the columns ``x``, numbers, and ``thing``, histograms.

    uproot writes no objects into trees: the column is written as one of numbers, and its
    description is written again as that of a branch of objects.
    """
    numbers = np.arange(3, dtype="float32")
    with uproot.recreate(path, compression=None) as file:
        tree = file.mktree("Sample", {"x": "float32", COLUMN: "float32"})
        tree.extend({"x": numbers, COLUMN: numbers})
        with uproot.open(path) as written:
            key = written.key("Sample")
            start = key.data_cursor.index
            source = written.file.source
            described = bytes(source.chunk(start, start + key.data_uncompressed_bytes).raw_data)
        again = _as_objects(described)
        file._cascading.add_object(file._file.sink, "TTree", "Events", "", again, len(again))
    return str(path)


def _as_objects(tree: bytes) -> bytes:
    """Make the last branch of a tree one of objects."""
    class_name = _NEW_CLASS + b"TBranch\0"
    branches = tree.index(class_name) - 4 - _BEFORE_FIRST
    start = tree.rindex(class_name) - 4
    stop = start + _size(tree, start)
    content = tree[start + 4 + len(class_name) : stop]
    content = struct.pack(">H", 1) + content + bytes([len(CLASS)]) + CLASS.encode()
    content = _counted(content)
    branch = _counted(_NEW_CLASS + b"TBranchObject\0" + content)
    changed = bytearray(tree[:start] + branch + tree[stop:])
    for position in (0, branches):  # which hold the branch
        larger = _size(tree, position) - 4 + len(branch) - (stop - start)
        struct.pack_into(">I", changed, position, _BYTE_COUNT | larger)
    return bytes(changed)


def _size(content: bytes, position: int) -> int:
    (count,) = struct.unpack_from(">I", content, position)
    return int(count & ~_BYTE_COUNT) + 4


def _counted(content: bytes) -> bytes:
    return struct.pack(">I", _BYTE_COUNT | len(content)) + content
