"""The 1000 classes of ImageNet-1k (ILSVRC 2012): WordNet ids as its folders are called, and names a person reads.

`imagenet_classes.tsv`: one class per line in the order of the labels, `n01440764<TAB>tench`. The ids are sorted, so the
order of the sorted folders is that of the labels. They were compared with the list that timm 1.0.31 carries: equal.
O. Russakovsky et al.: ImageNet Large Scale Visual Recognition Challenge (2015), arXiv:1409.0575.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

_TABLE = Path(__file__).with_name("imagenet_classes.tsv")


@functools.cache
def imagenet_names() -> dict[str, str]:
    """WordNet id -> name, in the order of the labels."""
    lines = _TABLE.read_text(encoding="utf-8").splitlines()
    return dict((wordnet, name) for wordnet, _, name in (line.partition("\t") for line in lines))


def spoken_names(classes: Sequence[str]) -> list[str]:
    """`classes` with names in place of WordNet ids if all of them are such ids, else as they are."""
    names = imagenet_names()
    return (
        [names[entry] for entry in classes] if classes and all(entry in names for entry in classes) else list(classes)
    )
