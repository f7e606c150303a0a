"""The digits: values, split and augmentation."""

import torch

from data_loader.data_loaders import DigitsDataLoader
from data_loader.transforms import RandomAffine
from tests.data_loader.batches import first, whole


def test_digits_split_and_values() -> None:
    images, labels = whole(DigitsDataLoader(batch_size=100, shuffle=False))
    assert images.shape == (1500, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert abs(images.mean()) < 0.01
    assert abs(images.std() - 1) < 0.01
    assert labels[:10].tolist() == list(range(10))
    test_images, test_labels = whole(DigitsDataLoader(batch_size=100, shuffle=False, training=False))
    assert test_images.shape == (297, 1, 8, 8)
    assert test_labels.bincount().tolist() == [27, 31, 27, 30, 33, 30, 30, 30, 28, 31]


def test_digits_state_their_classes() -> None:
    names = [str(digit) for digit in range(10)]
    facts = DigitsDataLoader().facts
    assert facts == {"num_classes": 10, "class_names": names, "class_counts": facts["class_counts"]}
    assert facts["class_counts"] == [151, 151, 150, 153, 148, 152, 151, 149, 146, 149]
    assert sum(DigitsDataLoader(validation_split=300).facts["class_counts"]) == 1200
    assert all(type(count) is int for count in facts["class_counts"])
    assert DigitsDataLoader(training=False).for_testing().facts == {"num_classes": 10, "class_names": names}


def test_augmentation_is_a_function_of_seed_epoch_and_sample() -> None:
    plain = DigitsDataLoader(batch_size=100)
    loaders = [DigitsDataLoader(batch_size=100, transforms=[RandomAffine(10, 1, 0.1, 5)]) for _ in range(3)]
    loaders[1].num_workers = 1
    loaders[2].batch_size = 50  # other samples in the batch
    for loader in loaders:
        loader.configure(seed=7)
    images, labels = first(loaders[0])
    again, _ = first(loaders[1])
    assert torch.equal(images, again)
    smaller, smaller_labels = first(loaders[2])
    torch.testing.assert_close(smaller, images[:50], rtol=0, atol=1e-4)
    assert torch.equal(smaller_labels, labels[:50])

    plain.configure(seed=7)
    raw, raw_labels = first(plain)
    assert torch.equal(raw_labels, labels)
    assert not torch.equal(raw, images)
    # The same samples in another epoch, or with another seed
    for seed, epoch in ((7, 1), (8, 0)):
        loaders[0].shuffle = False
        loaders[0].configure(seed=7)
        base, _ = first(loaders[0])
        loaders[0].configure(seed=seed)
        other, _ = first(loaders[0], step=epoch * loaders[0].steps_per_epoch)
        assert not torch.equal(base, other)


def test_validation_and_test_data_are_not_augmented() -> None:
    for training, split in ((True, 300), (False, 0)):
        loaders = [
            DigitsDataLoader(batch_size=50, validation_split=split, training=training, transforms=transforms)
            for transforms in (None, [RandomAffine(rotate=10)])
        ]
        seen = [whole(loader.split_validation() or loader.for_testing())[0] for loader in loaders]
        assert torch.equal(*seen)
