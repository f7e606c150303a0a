"""Models of torchvision and timm, and the weights that these libraries publish for them.

A model is always built without them, so that test.py and a resume need no file; `Config.published` says which a new
run is to load (trainer/checkpoint/init_from.py).
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from utils.config.files import did_you_mean, nearest

TIMM = "timm/"
KEYS = ("weights", "weights_backbone", "pretrained")  # torchvision's, and timm's


def timm_builder(name: str) -> Callable[..., Any]:
    """A builder of the timm model timm/NAME or timm/NAME.TAG. LookupError for an unknown one."""
    if importlib.util.find_spec("timm") is None:
        raise LookupError(f"'{name}' is a model of timm, which is not installed: make extra NAME=timm")
    import timm  # takes seconds

    plain = name.removeprefix(TIMM)
    models, tagged = timm.list_models(), timm.list_models(pretrained=True)
    if plain not in models and plain not in tagged:
        near = nearest(plain, [*models, *tagged])
        raise LookupError(
            f"unknown name '{name}'{did_you_mean(near and TIMM + near)}; timm has {len(models)} models, and "
            f"{len(tagged)} with the name of their weights, NAME.TAG"
        )

    entry = timm.model_entrypoint(plain.partition(".")[0])

    @functools.wraps(entry)  # its signature
    def build(**kwargs: Any) -> Any:
        return timm.create_model(plain, **kwargs)

    signature = inspect.signature(entry)
    if signature.return_annotation is signature.empty:  # it does not say whose arguments its **kwargs are
        *named, others = signature.parameters.values()
        classes = inspect.Parameter("num_classes", inspect.Parameter.KEYWORD_ONLY, default=1000, annotation=int)
        build.__signature__ = signature.replace(parameters=[*named, classes, others])  # type: ignore[attr-defined]
    build.timm_name = plain  # type: ignore[attr-defined]
    return build


def without_weights(thing: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The arguments without published weights; and a builder of the model with them, if the config asks for them."""
    library = str(getattr(thing, "__module__", "")).split(".")[0]
    if library not in ("torchvision", "timm") or not inspect.isfunction(thing):
        return dict(values), None
    defaults = {key: p.default for key, p in inspect.signature(thing).parameters.items() if key in KEYS}
    asked = {key: values.get(key, default) for key, default in defaults.items()}
    plain = {**values, **dict.fromkeys(asked, None)}
    if "pretrained" in asked:
        plain["pretrained"] = False
    if not any(asked.values()):
        return plain, None
    name = getattr(thing, "__name__", "")
    if name in ("googlenet", "inception_v3"):
        plain.setdefault("transform_input", True)  # their weights are for another normalization
    if name == "googlenet":
        plain.setdefault("aux_logits", False)  # torchvision's default, where there are weights
    with_head = {key: value for key, value in values.items() if key not in ("num_classes", "image_size")}
    return plain, functools.partial(thing, **{**with_head, **asked})


def where_to_get(make: Any) -> str:
    """Advice for weights that cannot be downloaded. make: builds the model with them."""
    if name := getattr(make.func, "timm_name", None):
        import timm

        cfg: Any = timm.get_pretrained_cfg(name)
        file = f"model.safetensors of {cfg.hf_hub_id} in the Hugging Face hub" if cfg.hf_hub_id else cfg.url
        return f"Download {file} where there is a network, and give the file as init_from=FILE"
    import torch

    urls = [weights.url for weights in make.keywords.values() if hasattr(weights, "url")]
    return (
        f"Download {' and '.join(urls)} where there is a network, and put it into {torch.hub.get_dir()}/checkpoints, "
        f"or give the file as init_from=FILE"
    )
