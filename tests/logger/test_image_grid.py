"""The picture of a batch of images."""

import torch

from logger.image_grid import captions, image_grid, is_images, unnormalized


def test_image_grid():
    images = torch.stack([torch.full((1, 2, 3), value) for value in (-1.0, 0.0, 3.0)])
    grid = image_grid(images, columns=2)
    assert grid.shape == (1, 2 * (2 + 2) + 2, 2 * (3 + 2) + 2)
    assert (grid[0, 2:4, 2:5] == 0).all()
    assert (grid[0, 2:4, 7:10] == 0.25).all()
    assert (grid[0, 6:8, 2:5] == 1).all()
    assert (grid[0, 6:8, 7:10] == 1).all()  # no fourth image: as the lines between
    assert grid[0, 0].tolist() == [1.0] * 12


def test_what_can_be_drawn():
    assert is_images(torch.zeros(2, 3, 4, 4))
    assert is_images(torch.zeros(2, 1, 4, 4))
    assert not is_images(torch.zeros(2, 4, 4, 4))
    assert not is_images(torch.zeros(2, 3, 4))
    assert not is_images([torch.zeros(2, 3, 4, 4)])


def test_captions_are_drawn_under_images_that_are_large_enough_to_read_them():
    images = torch.zeros(2, 1, 8, 8)
    grid = image_grid(images, labels=["cat", ""], normalization=([0.0], [1.0]))
    assert grid.shape == (3, 64 + 14 + 4, 2 * 66 + 2)
    first, second = grid[:, 66:80, 2:66], grid[:, 66:80, 68:132]
    assert first.min() < 0.5  # text
    assert (second == 1).all()


def test_captions_of_targets():
    assert captions(torch.tensor([2, 0]), ["a", "b", "c"]) == ["c", "a"]
    assert captions(torch.tensor([2, 7]), ["a", "b", "c"]) == ["c", "7"]
    assert captions(torch.tensor([2])) == ["2"]
    assert captions(torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]), ["a", "b", "c"]) == ["b 75% a 25%", "a 100%"]
    assert captions(torch.zeros(2, 4, 4, dtype=torch.long)) is None  # a mask per image
    assert captions(torch.tensor([0.5, 0.1])) is None  # regression
    assert captions("x") is None


def test_what_is_not_finite_is_drawn_as_zero():
    images = torch.tensor([float("nan"), float("inf"), 0.0, 2.0]).view(1, 1, 2, 2)
    assert torch.equal(unnormalized(images).flatten(), torch.tensor([0.0, 0.0, 0.0, 1.0]))
