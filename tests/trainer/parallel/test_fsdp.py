"""Sharded models: the same result as one process; checkpoints in parts that are whole, or not there at all."""

import os
import pickle
import shutil
import signal
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import metadata as dcp_metadata

from tests.test_test import test_py
from tests.trainer.checkpoint.harness import unequal
from tests.trainer.parallel.models import Tied
from tests.trainer.parallel.ranks import BASE, on_ranks, trained
from tests.trainer.parallel.test_same_result import assert_same_run, results, same
from trainer import load_model
from trainer.checkpoint import files as checkpoint
from trainer.checkpoint import shards, writer
from trainer.parallel import fsdp
from utils import config as configs
from utils.errors import UsageError

__all__ = ["test_py"]
FSDP = "trainer.parallel=fsdp"
MLP = ["arch={type: MLP, args: {in_features: 64, hidden: [16, 12]}}"]
RUN = [  # 97 samples of validation, steps of 47 or 46, in two micro-batches: unequal on the ranks
    *MLP,
    "data_loader.args.batch_size=47",
    "optimizer={type: AdamW, args: {lr: 0.01}}",
    "lr_scheduler=WarmupCosineLR",
    "trainer.accumulate=2",
    "trainer.clip_grad_norm=0.3",
    "trainer.valid_steps=3",
]


@pytest.fixture(scope="module")
def one_process():
    return results(1, RUN)


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("blocks", ["null", "[]"])
def test_equals_one_process(one_process, world, blocks):
    """With clipping, accumulation, unequal samples, a schedule and validations; in blocks, or all at once."""
    assert_same_run(one_process, results(world, [*RUN, FSDP, f"trainer.shard={blocks}"]))


def test_clipping_was_at_work(one_process):
    assert not same(one_process["weights"], results(1, [*RUN, "trainer.clip_grad_norm=null"])["weights"], 1e-3)


SGD = "{type: SGD, args: {lr: 0.1}}"
GAN = ["arch=TinyGAN", "loss=BCEWithLogitsLoss", "metrics=[]", "trainer.type=GANTrainer"]


@pytest.mark.parametrize(
    ("change", "ranks"),
    [
        ([], 2),  # batch norm: over the samples of a process, so compared with as many
        (["arch=Unused", "optimizer.args.weight_decay=0.1"], 1),
        pytest.param(["arch=Tied", "optimizer.args.weight_decay=0.1"], 1, marks=pytest.mark.slow),
        ([*GAN, f"optimizer={{generator: {SGD}, discriminator: {SGD}}}"], 1),
        # Fewer than ranks
        pytest.param([*MLP, "data_loader.args.validation_split=3", "trainer.valid_steps=3"], 1, marks=pytest.mark.slow),
        pytest.param(["callbacks=[EMA]", "trainer.valid_steps=3", "trainer.shard=[]"], 2, marks=pytest.mark.slow),
        (["trainer.precision=bf16", "trainer.channels_last=false"], 2),  # which rounds differently in 16 bits
        pytest.param([*MLP, "optimizer={type: RMSprop, args: {lr: 0.001}}"], 1, marks=pytest.mark.slow),
    ],
    ids=["batch norm", "unused", "tied", "gan", "few", "ema", "bf16", "rmsprop"],
)
def test_models_and_options(change, ranks):
    expected = results(ranks, [option for option in change if "shard" not in option])
    found = results(4 if "validation_split=3" in str(change) else 2, [*change, FSDP])
    expected["weights"].pop("seen", 0), found["weights"].pop("seen", 0)  # a buffer: that of rank 0
    assert_same_run(expected, found)


@pytest.mark.slow
def test_precision():
    """In bf16 the weights that a forward pass sees are in 16 bits, and gradients, weights and statistics in 32."""
    for found in on_ranks(2, dtypes_of_a_step):
        assert found == {"Conv2d": torch.bfloat16, "BatchNorm2d": torch.float32, "gradients": torch.float32}


def dtypes_of_a_step():
    found = {}

    def look(trainer):
        def hook(module, inputs):
            found[type(module).__name__.removeprefix("FSDP")] = module.weight.dtype

        for module in trainer.model.modules():
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
                module.register_forward_pre_hook(hook)
        step = trainer.optimizer.step

        def stepped():
            (found["gradients"],) = {p.grad.dtype for p in trainer.model.parameters()}
            step()

        trainer.optimizer.step = stepped

    trained([FSDP, "trainer.precision=bf16", "trainer.max_steps=1"], None, look)
    return found


def test_non_finite_gradient_is_never_applied():
    """Of one rank's samples: all ranks stop before the update."""
    assert on_ranks(2, trained, [*RUN, FSDP], None, spoil_rank_1) == [3, 3]


def spoil_rank_1(trainer):
    backward = trainer.backward
    spoilt = lambda loss: loss * (float("inf") if trainer.rank and trainer.step == 2 else 1)  # noqa: E731
    trainer.backward = lambda loss, weight=None: backward(spoilt(loss), weight)
    step = trainer.optimizer.step

    def stepped():
        if trainer.step == 2:
            os._exit(77)
        step()

    trainer.optimizer.step = stepped


# -- blocks -----------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention, self.mlp = nn.Linear(width, width), nn.Sequential(nn.Linear(width, width), nn.ReLU())


class Transformer(nn.Module):
    def __init__(self, tied=False, width=8):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(100, width), nn.Embedding(4, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(3)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 100, bias=False)
        if tied:
            self.head.weight = self.tokens.weight


def test_blocks_by_default():
    """The entries of lists, and large layers; what is small or shares a weight stays with the model itself."""
    model = Transformer()
    assert set(fsdp.blocks(model, None)) == {*model.blocks, model.tokens, model.head}
    tied = Transformer(tied=True)
    assert set(fsdp.blocks(tied, None)) == set(tied.blocks)


def test_blocks_by_name():
    model = Transformer()
    blocks = fsdp.blocks(model, ["Block", "Linear"])
    assert set(blocks) == {m for m in model.modules() if isinstance(m, (Block, nn.Linear))}
    inner, outer = model.get_submodule("blocks.0.attention"), model.get_submodule("blocks.0")
    assert blocks.index(inner) < blocks.index(outer)
    with pytest.raises(UsageError, match=r"trainer.shard: Blok: no layer .* its layers are of: Block, Embedding"):
        fsdp.blocks(model, ["Blok"])
    with pytest.raises(UsageError, match="Linear shares a weight with another part of the model"):
        fsdp.blocks(Tied(), ["Linear"])


def test_optimizers_that_would_share_a_weight_are_reported():
    two = "optimizer={first: {type: SGD, args: {lr: 0.1}}, head: {type: SGD, args: {lr: 0.1}}}"
    options: Any = configs.load([BASE], ["arch=Tied", FSDP, two]).run.trainer
    with pytest.raises(UsageError, match="optimizers whose parts of the model share weights: weight"):
        fsdp.shard(Tied(), options, ["first", "head"], torch.device("cpu"))


@pytest.mark.parametrize("key", ["exact_ranks=true", "skip_bad_samples=3", "precision=fp16", "channels_last=true"])
def test_what_does_not_go_together_is_reported(key):
    with pytest.raises(UsageError, match=f"trainer.parallel=fsdp: fsdp cannot be combined with {key.split('=')[0]}"):
        configs.load([BASE], [FSDP, f"trainer.{key}"])


def test_blocks_without_fsdp_are_reported():
    with pytest.raises(UsageError, match=r"trainer.shard=.*add parallel: fsdp"):
        configs.load([BASE], ["trainer.shard=[Linear]"])


class Outside(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return x.flatten(1) @ self.layer.weight.T


def trained_outside(*args):
    from model import model

    vars(model)["Outside"] = Outside
    return trained(["arch=Outside", FSDP], *args)


def test_a_weight_that_is_used_outside_of_its_block_is_reported(tmp_path):
    assert on_ranks(2, trained_outside, tmp_path) == [3, 3]
    reported = "a weight was used outside of its block, where only this rank's shard of it is at hand"
    assert reported in (tmp_path / "run/log.txt").read_text()


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two ranks, all eight steps; the best of them the last but one that was validated."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, results(2, [*RUN, FSDP, "trainer.save_steps=2", "trainer.keep_last=2"], folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Two ranks, killed at once in step 6 (of 8): saved are steps 2 and 4."""
    folder = tmp_path_factory.mktemp("killed")
    assert on_ranks(2, trained, [*RUN, FSDP, "trainer.save_steps=2"], folder, kill_in_step_6) == [-9, -9]
    return folder


def kill_in_step_6(trainer):
    step = trainer.train_step

    def train_step(batches):
        if trainer.step == 5:
            trainer.saving.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        step(batches)

    trainer.train_step = train_step


def names(folder):
    """What is in the folder of checkpoints."""
    return sorted(path.name for path in (folder / "run/checkpoints").iterdir())


@pytest.mark.parametrize(
    ("after", "parallel"), [(2, "fsdp"), (4, "fsdp"), (1, "fsdp"), (2, "ddp")], ids=["2", "4", "1", "ddp"]
)
def test_resume(killed, undisturbed, tmp_path, after, parallel):
    """Bit-equal on as many ranks; on others, in the middle of an epoch, up to rounding."""
    shutil.copytree(killed / "run", tmp_path / "run")
    resumed = results(after, [*RUN, f"trainer.parallel={parallel}"], tmp_path)
    assert resumed["step"] == 8
    assert same(resumed["weights"], undisturbed[1]["weights"], 0 if (after, parallel) == (2, "fsdp") else 1e-6)


@pytest.mark.slow
def test_resume_with_ema(tmp_path):
    """A callback's state by the names of weights is sharded as they are."""
    options = ["callbacks=[EMA]", "trainer.save_steps=2", FSDP]
    results(2, options, tmp_path / "whole")
    assert on_ranks(2, trained, options, tmp_path / "killed", kill_in_step_6) == [-9, -9]
    results(2, options, tmp_path / "killed")
    name = "run/checkpoints/checkpoint-step8.pth"
    names = ["callbacks", "model", "raw_model"]
    whole, resumed = (shards.whole(tmp_path / run / name, names) for run in ("whole", "killed"))
    assert not list(unequal(whole, resumed))
    assert whole["callbacks"]["EMA"]["average"].keys() > {"classifier.weight", "features.2.running_mean"}
    assert (
        "callbacks.EMA.average.classifier.weight"
        in shards._Reader((tmp_path / "whole" / name).with_suffix(".shards")).metadata.state_dict_metadata
    )


def test_what_is_not_cut_is_saved_whole():
    for whole, parts in on_ranks(2, split_of_replicated):
        assert whole == [0.0, 1.0, 2.0]
        assert parts == {}


def split_of_replicated():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    from trainer.engine import setup

    with setup.processes(0, 20):
        tensor = distribute_tensor(torch.arange(3.0), init_device_mesh("cpu", (2,)), [Replicate()])
        state = shards.split({"part": {"state": tensor}})
        return state["part"]["state"].tolist(), state["shards"]


@pytest.mark.slow
def test_a_plain_checkpoint_continues_sharded(tmp_path):
    """Also that of a kernel that there is none of for sharded weights."""
    options = [*RUN, "optimizer={type: SGD, args: {lr: 0.1, momentum: 0.9}}"]
    on_ranks(2, trained, [*options, "trainer.save_steps=2"], tmp_path, kill_in_step_6)
    assert same(results(4, [*options, FSDP], tmp_path)["weights"], results(1, options)["weights"], 1e-6)


def kill_writing(trainer):
    """Rank 1, when it has written half of its part of step 4."""
    write = shards._Summed.write

    def half(self, data):
        if trainer.rank == 1 and trainer.step >= 4 and ".tmp-checkpoint-step4" in str(self.file.name):
            write(self, bytes(data)[: len(data) // 2])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, data)

    shards._Summed.write = half  # type: ignore[method-assign]


def kill_before_folder(trainer):
    """Rank 0, when all parts of step 4 are written, but not under their name."""
    rename = shards.ShardedCheckpoints._rename

    def killed(self, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, step)

    shards.ShardedCheckpoints._rename = killed  # type: ignore[method-assign]


def kill_before_file(trainer):
    """Rank 0, when the folder of step 4 is there, and the file is not."""
    write = writer.write_file

    def killed(state, path):
        if state["step"] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        write(state, path)

    writer.write_file = killed


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_writing, kill_before_folder, kill_before_file])
def test_a_save_that_is_killed_is_no_checkpoint(undisturbed, tmp_path, kill):
    options = [*RUN, FSDP, "trainer.save_steps=2", "trainer.keep_last=2"]
    found = on_ranks(2, trained, options, tmp_path, kill)
    assert -signal.SIGKILL in found
    assert not any(isinstance(r, dict) for r in found)
    assert [checkpoint.step_of(p) for p in checkpoint.checkpoints(tmp_path / "run/checkpoints")] == [2]
    assert same(results(2, options, tmp_path)["weights"], undisturbed[1]["weights"], 0)
    assert names(tmp_path) == names(undisturbed[0])


def full_disk(trainer):
    """Rank 1's, at step 4."""
    write = shards._Summed.write

    def full(self, data):
        if trainer.rank == 1 and ".tmp-checkpoint-step4" in str(self.file.name):
            raise OSError(28, "No space left on device")
        return write(self, data)

    shards._Summed.write = full  # type: ignore[method-assign]


def bad_disk(trainer):
    """Rank 1's takes other bytes than it is given, at step 4."""
    write = shards._Writer.write_data

    def written(self, *args):
        result = write(self, *args)
        if trainer.rank == 1 and "step4" in str(self.path):
            with open(self.path / "__1_0.distcp", "r+b") as file:
                file.seek(1000)
                file.write(b"something else")
        return result

    shards._Writer.write_data = written  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        (full_disk, "rank 1: No space left on device"),
        pytest.param(
            bad_disk,
            "reading it back gave something else than what was written: "
            ".tmp-checkpoint-step4.shards/__1_0.distcp is damaged",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_save_that_fails_on_one_rank_is_reported(undisturbed, tmp_path, disk, reason):
    """The run goes on, the next save works, and nothing of the failed one stays."""
    found = results(2, [*RUN, FSDP, "trainer.save_steps=2", "trainer.keep_last=2"], tmp_path, disk)
    assert same(found["weights"], undisturbed[1]["weights"], 0)
    assert "could not save a checkpoint" in (log := (tmp_path / "run/log.txt").read_text())
    assert reason in log
    assert names(tmp_path) == names(undisturbed[0])


def test_a_best_that_could_not_be_written_is_owed(tmp_path):
    """Rank 0 alone writes the small file, but what it owes all ranks must know: they write with it later."""
    options = [*RUN, FSDP, "trainer.save_steps=4", "trainer.monitor=max val_loss"]  # the first is the best
    results(2, options, tmp_path, fail_on_rank_0)
    best = checkpoint.load(tmp_path / "run/checkpoints/model_best.pth")
    assert (best["step"], best["monitor"]["best_step"]) == (3, 3)
    assert "checkpoint-step3.pth" not in names(tmp_path)


def fail_on_rank_0(trainer):
    write, failed = writer.write_file, list[Path]()

    def fail(state, path):
        if state["step"] == 3 and not failed:
            failed.append(path)
            raise OSError(28, "No space left on device")
        write(state, path)

    writer.write_file = fail


def test_only_shards_that_are_referred_to_stay(tmp_path):
    """Those of the newest and of the best, which is an older one."""
    results(2, [*RUN, FSDP, "trainer.save_steps=2", "trainer.keep_last=1", "trainer.monitor=max val_loss"], tmp_path)
    best = checkpoint.load(tmp_path / "run/checkpoints/model_best.pth")["shards"]["folder"]
    assert best != "checkpoint-step8.shards"
    assert names(tmp_path) == sorted([best, "checkpoint-step8.pth", "checkpoint-step8.shards", "model_best.pth"])


@pytest.mark.slow
def test_continuing_from_an_older_one_keeps_the_newer(killed, undisturbed, tmp_path):
    shutil.copytree(killed / "run", tmp_path / "run")
    checkpoints = tmp_path / "run/checkpoints"
    before = shards.whole(checkpoints / "checkpoint-step4.pth")["model"]
    found = on_ranks(2, continued, [*RUN, FSDP], tmp_path / "run", "checkpoint-step2.pth")
    assert same(found[0], undisturbed[1]["weights"], 0)
    assert "checkpoint-step4-2.shards" in names(tmp_path)
    (checkpoints / "checkpoint-step4.pth.bak").rename(tmp_path / "run/checkpoints/old.pth")
    after = shards.whole(checkpoints / "old.pth")["model"]
    assert all(torch.equal(before[k], after[k]) for k in before)


def continued(options, folder, name):
    import train
    from trainer.checkpoint import resume
    from trainer.engine import setup
    from utils.run_folder import Run

    config = configs.load([BASE], [*options, "trainer.save_steps=2"])
    with setup.processes(0, 20):
        trainer = train.build(config, Run(folder, folder / "checkpoints" / name))
        resume.start(trainer)
        trainer.train()
        return {k: v.full_tensor().numpy() for k, v in trainer.model.state_dict().items()}


@pytest.mark.parametrize("name", [pytest.param("__1_0.distcp", marks=pytest.mark.slow), ".metadata"])
def test_damaged_shards_are_reported_and_an_older_checkpoint_is_used(killed, undisturbed, tmp_path, name):
    shutil.copytree(killed / "run", tmp_path / "run")
    file = tmp_path / "run/checkpoints/checkpoint-step4.shards" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    resumed = results(2, [*RUN, FSDP], tmp_path)
    assert same(resumed["weights"], undisturbed[1]["weights"], 0)
    shutil.rmtree(file.parent)
    with pytest.raises(checkpoint.BrokenCheckpoint, match=r"checkpoint-step4.shards/.* is missing"):
        checkpoint.load(tmp_path / "run/checkpoints/checkpoint-step4.pth.bak")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch ran",)


def as_bytes(metadata):
    """Let a tensor be described as a pickle."""
    metadata.state_dict_metadata["model.layers.0.weight"] = dcp_metadata.BytesStorageMetadata()
    return metadata


@pytest.mark.parametrize("change", [lambda _: Malicious(), as_bytes], ids=["metadata", "bytes"])
def test_a_strangers_checkpoint_runs_no_code(killed, tmp_path, monkeypatch, change):
    """It is sound, as far as checksums tell."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(killed / "run/checkpoints", tmp_path / "checkpoints")
    path, folder = tmp_path / "checkpoints/checkpoint-step4.pth", tmp_path / "checkpoints/checkpoint-step4.shards"
    content = pickle.dumps(change(shards._Reader(folder).read_metadata()))
    (folder / ".metadata").write_bytes(content)
    state = torch.load(path, weights_only=True)
    state["shards"]["files"][".metadata"] = [len(content), zlib.crc32(content)]
    torch.save(state, path)
    with pytest.raises(UsageError, match=r"its .metadata names .*, and loading that could run code"):
        shards.main([str(path), "plain.pth"])
    assert not Path("ran").exists()
    assert not Path("plain.pth").exists()


def test_one_plain_file_and_test_py(undisturbed, tmp_path, test_py, capsys):
    """The same values from the shards and from the one file, which is a checkpoint like any other."""
    folder, found = undisturbed
    sharded, plain = folder / "run/checkpoints/checkpoint-step8.pth", tmp_path / "plain.pth"
    shards.main([str(sharded), str(plain)])
    state = torch.load(plain, weights_only=True)
    assert "shards" not in state
    assert same({k: v.numpy() for k, v in state["model"].items()}, found["weights"], 0)
    assert all(v["exp_avg"].abs().sum() > 0 for v in state["optimizer"]["state"].values())
    capsys.readouterr()
    for path in (sharded, plain):
        test_py.main(["-r", str(path)])
    out = capsys.readouterr().out
    losses = [line for line in out.splitlines() if line.startswith("  loss")]
    assert len(losses) == 2
    assert losses[0] == losses[1]
    weights = shards.load_weights(sharded)
    assert all(torch.equal(weights[k], state["model"][k]) for k in state["model"])
    loaded = load_model(sharded).state_dict()
    assert all(torch.equal(loaded[k], state["model"][k]) for k in state["model"])


@pytest.mark.slow
def test_a_run_continues_from_its_one_plain_file(killed, undisturbed, tmp_path):
    """Made in place of the sharded one, whose shards are then deleted."""
    shutil.copytree(killed / "run", tmp_path / "run")
    path = tmp_path / "run/checkpoints/checkpoint-step4.pth"
    shards.main([str(path), str(path)])
    resumed = results(2, [*RUN, FSDP], tmp_path)
    assert same(resumed["weights"], undisturbed[1]["weights"], 0)
    assert "checkpoint-step4.shards" not in names(tmp_path)


@pytest.mark.slow
def test_new_weights_from_a_sharded_checkpoint(undisturbed):
    """init_from, on one process and on two."""
    path = undisturbed[0] / "run/checkpoints/checkpoint-step8.pth"
    start = [*RUN, f"init_from={path}", "trainer.max_steps=1", "optimizer.args.lr=0.0", "optimizer.args.weight_decay=0"]
    for found in (results(1, start), results(2, [*start, FSDP])):
        assert same(found["weights"], undisturbed[1]["weights"], 0)
