"""The picture of a batch of images."""

import torch

from logger.image_grid import image_grid, is_images


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
