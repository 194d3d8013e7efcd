import tomllib

import numpy as np

from benchmarks.imagenet_fitting import CLASS_MAP, zero_shot


def test_the_class_map_has_every_cifar10_class_and_no_imagenet_class_twice() -> None:
    groups = tomllib.loads(CLASS_MAP.read_text("utf-8"))
    assert " ".join(groups) == "airplane automobile bird cat deer dog frog horse ship truck"
    indices = [int(entry.split()[0]) for group in groups.values() for entry in group]
    assert len(indices) == len(set(indices))
    assert max(indices) < 1000


def test_probabilities_of_a_class_add_up() -> None:
    """The highest single class is a cat, but the two dogs together weigh more."""
    found = np.zeros((1, 1000), np.float32)
    found[0, [281, 151, 268]] = 0.4, 0.3, 0.3
    assert zero_shot(found).tolist() == [5]
