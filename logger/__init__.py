"""What a run reports: console and log.txt, metrics.jsonl, TensorBoard. One writer, one file."""

NAME = "groundwork"  # of the logger: logging.getLogger(NAME)
