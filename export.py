"""Export a run for other programs: python export.py -r saved/digits/RUN --format onnx

The file has the weights that were validated, and in its metadata the classes, the config and the preprocessing. It is
read back and compared with the model on real samples; if it differs, it is not kept.
"""

import argparse
from pathlib import Path

from utils import cli
from utils.errors import UsageError
from utils.exit_codes import exit_with

EXAMPLES = """\
  export.py -r saved/digits/RUN                           model.onnx in the run's folder, with a dynamic batch size
  export.py -r RUN --format torch_export --out model.pt2
  export.py -r RUN --with-preprocessing --half            takes pixels 0..255; float16"""


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--format", choices=("onnx", "torch_export", "safetensors", "aoti"), default="onnx",
        help="default: %(default)s; safetensors: the weights alone; aoti: compiled for this machine")  # fmt: skip
    add("--half", action="store_true", help="float16 weights; inputs and outputs stay float32")
    add("--with-preprocessing", action="store_true", help="the file takes pixels, 0 to 255, and normalizes them")
    add("--out", type=Path, metavar="FILE", help="default: model.onnx, .pt2 or .safetensors in the run's folder")
    add("--tolerance", type=float, metavar="X", help="largest difference from the model that is accepted")
    add("--data", nargs="+", default=[], metavar="PATH", help="samples to compare on (default: the run's test data)")


def main(argv: list[str] | None = None) -> int:
    args = cli.parse_run("Export a run, or one of its checkpoints.", EXAMPLES, options, argv)

    from trainer.engine import setup  # torch from here on
    from trainer.export import job
    from trainer.inference.members import Source

    if args.devices not in (None, "cpu"):
        raise UsageError(f"-d {args.devices}: export.py works on the CPU, and so does the file; leave it out")
    source = Source(args.run, args.overrides)
    chosen = job.Options(
        format=args.format,
        half=args.half,
        with_preprocessing=args.with_preprocessing,
        out=args.out,
        tolerance=args.tolerance,
        data=args.data,
    )
    with setup.processes():
        job.export(source, chosen)
    return 0


if __name__ == "__main__":
    exit_with(main)
