"""What it costs to know where the time goes: a step of the tiny MLP of benchmarks.step with the clock over one without.

    python -m benchmarks.clock

One run, whose clock is switched on and off every 100 steps. Medians over rounds. One thread.
"""

import argparse
import contextlib
import statistics

import torch

from benchmarks.compile import Steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = Steps("MLP", False)
    clock, nothing = run.trainer.clock, contextlib.nullcontext()
    times = {"without": list[float](), "with": list[float]()}
    for _ in range(args.rounds):
        phases = clock.phases
        setattr(clock, "phases", dict.fromkeys(phases, nothing))  # noqa: B010
        times["without"].append(run.run(100))
        clock.phases = phases
        times["with"].append(run.run(100))
    run.close()
    for name, seconds in times.items():
        ratio = statistics.median(seconds) / statistics.median(times["without"])
        print(f"{name:8} {statistics.median(seconds) * 1e6:8.2f} us a step   {ratio:.4f}")


if __name__ == "__main__":
    main()
