"""Average the weights of several checkpoints: python soup.py RUN RUN ... --out FILE

A run stands for its best checkpoint. Given a single run, it writes a copy to share: the weights without the optimizer.
Averaging runs that began from the same weights often beats each of them (Wortsman et al., Model soups, 2022).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import cli
from utils.errors import UsageError
from utils.exit_codes import exit_with
from utils.run_folder import find_checkpoint

# Only needed to continue a run. The averages of callbacks are already in `model`
FOR_TRAINING = ("optimizer", "lr_scheduler", "callbacks", "raw_model", "data_state", "window", "epoch_sums", "shards")
SAME = ("num_classes", "class_names")  # facts that must not differ: they say what the outputs mean


def soup(paths: Sequence[Path], out: Path) -> None:
    """Write the mean of these checkpoints' models as a checkpoint that test.py, load_model and init_from accept.

    All floating-point tensors are averaged, batch norm's statistics too; others are those of the first.
    """
    import torch

    from trainer.checkpoint import writer

    if out.exists():
        raise UsageError(f"--out {out}: the file exists; give another name, or remove it")
    state: dict[str, Any] = {}
    seeds: set[int] = set()
    totals: dict[str, torch.Tensor] = {}
    for path in paths:  # one after the other, so that two models at most are in memory
        other = _read(path)
        if not state:
            state = other
        _check(paths[0], state, path, other)
        seeds.add(other["config"].get("seed", 0))
        for name, value in other["model"].items():
            if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
                totals[name] = totals.get(name, 0) + value.to(torch.promote_types(value.dtype, torch.float64))
    if len(seeds) > 1 and not _pretrained(state["config"]):
        print(
            f"warning: these runs have the seeds {', '.join(map(str, sorted(seeds)))}: if each began from random "
            f"weights of its own, their mean is useless, so test it; give runs with the same init_from, or of one seed"
        )
    means = {name: (total / len(paths)).to(state["model"][name].dtype) for name, total in totals.items()}
    state["model"] = {name: means.get(name, value) for name, value in state["model"].items()}
    state["config"] = {**state["config"], "callbacks": []}  # none of them may put other weights in their place
    try:
        writer.write({key: value for key, value in state.items() if key not in FOR_TRAINING}, out)
    except OSError as e:
        raise UsageError(f"--out {out} could not be written: {e.strerror}") from e


def _pretrained(config: Mapping[str, Any]) -> bool:
    """Does a run of it begin from the same weights, whatever its seed?"""
    args = config["arch"].get("args") or {}
    return bool(config.get("init_from") or args.get("weights") or args.get("pretrained"))


def _read(path: Path) -> dict[str, Any]:
    from trainer.checkpoint import files
    from trainer.checkpoint.load import weights_of

    try:
        state = files.load(path)
    except files.BrokenCheckpoint as e:
        raise UsageError(f"{path} cannot be used: {e}") from e
    return {**state, "model": weights_of(path, state), "logs": {}, "unwritten": {}}


def _check(first: Path, state: Mapping[str, Any], path: Path, other: Mapping[str, Any]) -> None:
    """Raise UsageError where two checkpoints are not of the same model."""
    for name in SAME:
        if state["facts"].get(name) != other["facts"].get(name):
            raise UsageError(f"{path}: its {name} differ from those of {first}; give checkpoints of the same data")
    shapes = [{name: tuple(getattr(t, "shape", ())) for name, t in s["model"].items()} for s in (state, other)]
    if wrong := sorted(set(shapes[0].items()) ^ set(shapes[1].items())):
        raise UsageError(
            f"{path} and {first} hold different models: {wrong[0][0]} is {shapes[1].get(wrong[0][0], 'missing')} there "
            f"and {shapes[0].get(wrong[0][0], 'missing')} here; give checkpoints of the same arch"
        )


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser_for("Average the weights of checkpoints into one.")
    parser.add_argument("checkpoints", nargs="+", metavar="RUN|CHECKPOINT", help="a run means its best checkpoint")
    parser.add_argument("--out", required=True, metavar="FILE", help="the checkpoint to write, such as soup.pth")
    args = parser.parse_intermixed_args(argv)
    paths = [find_checkpoint(name) for name in args.checkpoints]
    soup(paths, Path(args.out))
    size = Path(args.out).stat().st_size / 1e6
    what = f"the mean of {len(paths)} models, " if len(paths) > 1 else ""
    print(f"{args.out}: {what}{size:,.1f} MB")
    print(f"test it: python test.py -r {args.out}")
    return 0


if __name__ == "__main__":
    exit_with(main)
