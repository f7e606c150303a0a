"""The writers of a config without the key `logger`."""

from logger.writer import Writer


def default_writers(tensorboard: bool) -> list[Writer]:
    """TensorBoard, where `trainer.tensorboard` is on."""
    if not tensorboard:
        return []
    try:
        from logger.tensorboard import TensorBoard
    except ModuleNotFoundError as e:
        if e.name != "logger.tensorboard":
            raise
        return []  # the file was deleted
    return [TensorBoard()]
