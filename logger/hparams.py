"""TensorBoard's tab HPARAMS: the keys of a config that change a result, and what the run ended with."""

from collections.abc import Mapping
from typing import Any

from logger.flat import flat

SECTIONS = ("optimizer", "lr_scheduler", "seed", "data_loader", "arch", "loss")
OF_TRAINER = ("type", "args", "epochs", "max_steps", "accumulate", "clip_grad_norm", "precision")
NO_EFFECT = ("data_loader.args.num_workers", "data_loader.args.data_dir", "data_loader.args.resident")


def start(config: Mapping[str, Any]) -> Any:
    """The summary that begins a run in the tab."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    info = SessionStartInfo()
    for name, value in _chosen(config).items():
        kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
        setattr(info.hparams[name], f"{kind}_value", value)
    return _summary("session_start_info", HParamsPluginData(session_start_info=info))


def end() -> Any:
    """The summary of a run that is finished. TensorBoard itself finds the keys that differ, which it shows first, and
    makes a column of the last value of each chart."""
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    return _summary("session_end_info", HParamsPluginData(session_end_info=SessionEndInfo(status=STATUS_SUCCESS)))


def _summary(tag: str, data: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams.metadata import PLUGIN_NAME

    plugin = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=data.SerializeToString())
    return Summary(value=[Summary.Value(tag=f"_hparams_/{tag}", metadata=SummaryMetadata(plugin_data=plugin))])


def _chosen(config: Mapping[str, Any]) -> dict[str, Any]:
    trainer = config.get("trainer") or {}
    shown = {name: config[name] for name in SECTIONS if name in config}
    shown["trainer"] = {name: trainer[name] for name in OF_TRAINER if name in trainer}
    found = {}
    for key, value in flat(shown).items():
        if value not in (None, [], {}, "") and key not in NO_EFFECT:
            found[key.replace(".args.", ".")] = value if isinstance(value, int | float) else str(value)
    return found
