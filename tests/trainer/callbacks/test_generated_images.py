"""GeneratedImages: a picture after each epoch, which disturbs no draw of the training."""

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

import model.model
from tests.tiny import tiny

__all__ = ["tiny"]


def test_generated_images(tiny, monkeypatch):
    class TinyGAN(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.latent = 4
            self.generator = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Unflatten(1, (1, 8, 8)))
            self.discriminator = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1), torch.nn.Flatten(0))

    monkeypatch.setattr(model.model, "TinyGAN", TinyGAN, raising=False)
    adam = "{type: Adam, args: {lr: 0.01}}"
    gan = ["arch=TinyGAN", "loss=BCEWithLogitsLoss", "metrics=[]", "trainer.type=GANTrainer"]
    gan += [f"optimizer={{generator: {adam}, discriminator: {adam}}}", "trainer.tensorboard=true"]
    tiny.train(*gan, "callbacks=[{type: GeneratedImages, args: {images: 10}}]", run="with")
    events = EventAccumulator(str(tiny.folder / "with"))
    events.Reload()
    pictures = events.Images("train/generated")
    assert [(p.step, p.width, p.height) for p in pictures] == [(6, 82, 22), (12, 82, 22)]
    tiny.train(*gan, run="without")
    assert tiny.points("train", "with") == tiny.points("train", "without")  # drawing disturbs nothing
    assert tiny.points("train", "with")[0].keys() == {
        *("step", "epoch", "split", "loss", "d_loss", "lr_generator", "lr_discriminator")
    }
