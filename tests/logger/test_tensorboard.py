"""TensorBoard event files."""

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from logger.tensorboard import TensorBoard
from logger.writer import RunInfo


def opened(folder, sizes=None, unwritten=None, **config):
    writer = TensorBoard()
    writer.cut(folder, sizes or {}, unwritten or {})
    writer.open(RunInfo(folder, config, "python train.py"))
    return writer


def read(folder, **options):
    events = EventAccumulator(str(folder), **options)
    events.Reload()
    return events


def sizes_of(writer, folder):
    return {file.path.relative_to(folder).as_posix(): file.size for file in writer.files()}


def test_tensorboard_takes_whatever_else_torch_makes_for_it(tmp_path):
    from torch.utils.tensorboard.summary import histogram

    opened(tmp_path).write(3, histogram("weights", np.arange(10.0), "auto"))
    [found] = read(tmp_path).Histograms("weights")
    assert (found.step, found.histogram_value.num, found.histogram_value.sum) == (3, 10, 45)


def test_train_and_valid_are_two_lines_of_one_chart(tmp_path):
    """The same tag in two folders, which TensorBoard draws into one chart."""
    writer = opened(tmp_path)
    writer.scalars(1, 1, "train", {"loss": 2.0, "lr": 0.1})
    writer.scalars(1, 1, "valid", {"loss": 3.0})
    assert sorted(read(tmp_path / "train").Tags()["scalars"]) == ["loss", "lr"]
    assert [p.value for p in read(tmp_path / "valid").Scalars("loss")] == [3.0]
    assert not list(tmp_path.glob("events*"))


def test_config_and_command_as_text_and_the_tab_hparams(tmp_path):
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    config = {"name": "digits", "optimizer": {"type": "SGD", "args": {"lr": 0.5}}, "trainer": {"save_dir": "x"}}
    writer = opened(tmp_path, **config)
    writer.result(9, {"val_loss": 0.25, "best_val_loss": 0.125})
    events = read(tmp_path)
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "lr: 0.5" in texts["config/text_summary"]
    assert "python train.py" in texts["command/text_summary"]

    def data(name):
        return HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content)

    given = data("session_start_info").session_start_info.hparams
    assert {name: value.number_value or value.string_value for name, value in given.items()} == {
        "optimizer.type": "SGD",
        "optimizer.lr": 0.5,
    }
    assert data("session_end_info").session_end_info.status == 1  # success
    tags = ("result/val_loss", "result/best_val_loss")
    assert [events.Scalars(tag)[0].value for tag in tags] == [0.25, 0.125]


def test_a_resume_cuts_the_files_back(tmp_path):
    """To their sizes at the checkpoint; a file that did not exist then is deleted, but for those of test.py."""
    first = opened(tmp_path)
    first.scalars(1, 1, "train", {"loss": 2.0})
    sizes = sizes_of(first, tmp_path)
    first.scalars(2, 1, "train", {"loss": 1.0})
    lost = opened(tmp_path, sizes_of(first, tmp_path))
    lost.image("train/inputs", torch.zeros(1, 4, 4), 3)
    lost.scalars(2, 1, "test", {"loss": 7.0})
    unwritten = {
        "train/events.out.tfevents.more": b"",
        "../outside": b"x",
        "other.txt": b"x",
        "a/events.out.tfevents.b": b"",
    }
    resumed = opened(tmp_path, sizes, unwritten)
    resumed.scalars(2, 1, "train", {"loss": 0.5})
    points = read(tmp_path / "train").Scalars("loss")
    assert [(point.step, point.value) for point in points] == [(1, 2.0), (2, 0.5)]
    assert read(tmp_path).Tags()["images"] == []
    assert [point.value for point in read(tmp_path / "test").Scalars("loss")] == [7.0]
    assert not (tmp_path.parent / "outside").exists()
    assert not (tmp_path / "other.txt").exists()
    assert not (tmp_path / "a").exists()


def test_a_folder_that_is_a_link_is_left_alone(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "events.out.tfevents.1").write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / "train").symlink_to(outside)
    opened(run)
    assert (outside / "events.out.tfevents.1").read_text() == "precious"


def test_the_projector_finds_vectors_labels_and_images(tmp_path):
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from PIL import Image
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    writer = opened(tmp_path)
    for n in (9, 5):  # the second replaces the first
        writer.embedding("features", torch.arange(2.0 * n).view(n, 2), ["a\tb"] * n, torch.rand(n, 1, 8, 6))
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    [embedding] = config.embeddings
    assert np.loadtxt(tmp_path / embedding.tensor_path).tolist() == np.arange(10.0).reshape(5, 2).tolist()
    assert (tmp_path / embedding.metadata_path).read_text() == "a b\n" * 5
    assert list(embedding.sprite.single_image_dim) == [6, 8]
    with Image.open(tmp_path / embedding.sprite.image_path) as sprite:
        assert sprite.size == (18, 24)


def test_an_embedding_that_cannot_be_written_ends_no_run(tmp_path, caplog):
    (tmp_path / "projector").write_text("no folder")
    opened(tmp_path).embedding("embeddings", torch.ones(2, 3), ["a", "b"])
    assert "the embedding could not be written" in caplog.text
