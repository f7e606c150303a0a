"""Predict for new data: python predict.py -r saved/digits/RUN --data FOLDER --out predictions.csv

The data is read as in the evaluation of the run, in the order it is given. A job that was killed continues when the
same command is run again.
"""

import argparse
import sys
from pathlib import Path

from utils import cli
from utils.exit_codes import exit_with
from utils.run_folder import members

EXAMPLES = """\
  predict.py -r saved/digits/RUN --data scans/                    id and label of each image, in predictions.csv
  predict.py -r RUN --data test.csv --columns PassengerId,Survived=label --out submission.csv
  predict.py -r RUN1 RUN2 RUN3 --data test/ --prob --tta hflip    the average of three runs and of mirror images
  predict.py -r RUN --data 'What a film!'                         one sentence
  predict.py -r RUN --data photos/ --out masks                    segmentation: a mask of each image"""


def options(parser: argparse.ArgumentParser) -> None:
    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    add = parser.add_argument
    add("--data", nargs="+", required=True, metavar="PATH", help="files, folders, a table, or texts; without targets")
    add("--out", type=Path, metavar="FILE", help="the table (default: predictions.csv); for masks, their folder "
        "(default: predictions)")  # fmt: skip
    add("--columns", type=names, metavar="A,B", help="its columns: id, label, index, prob, a class, one of the input "
        "table; HEADER=COLUMN names one (default: id,label)")  # fmt: skip
    add("--prob", action="store_true", help="add the probability of each class")
    add("--average", choices=("prob", "logit"), default="prob", help="what is averaged (default: %(default)s)")
    add("--weights", metavar="2,1|auto", help="how much each run counts; auto: by the validation data")
    add("--tta", type=names, default=[], metavar="A,B", help="average over views: hflip, vflip, rot90, rot180, rot270")
    add(
        "--excel",
        action="store_true",
        help="mark the table as UTF-8 for Excel, which otherwise garbles letters such as 가",
    )
    add("--skip-bad", action="store_true", help="leave out samples that cannot be read, and name them")


def main(argv: list[str] | None = None) -> int:
    args = cli.parse_run("Predict for data without targets.", EXAMPLES, options, argv, several=True)

    from trainer.engine import setup  # torch from here on
    from trainer.inference import job
    from trainer.inference.members import Source
    from utils.process import launch

    sources = [Source(run, args.overrides) for named in args.runs for run in members(named)]
    run = sources[0].config.run
    if (count := launch.needed(run.n_gpu, args.devices)) > 1:
        del sources  # each process loads them for itself
        return launch.start(count, [__file__, *(sys.argv[1:] if argv is None else argv)])
    chosen = job.Options(
        out=args.out,
        columns=args.columns,
        with_probabilities=args.prob,
        of_logits=args.average == "logit",
        weights=args.weights,
        views=args.tta,
        skip_bad=args.skip_bad,
        for_excel=args.excel,
    )
    with setup.processes(timeout=run.trainer.timeout):
        device = setup.device(sources[0].config, args.devices)
        job.run(job.Ensemble(sources, device, args.data, chosen), chosen)
    return 0


if __name__ == "__main__":
    exit_with(main)
