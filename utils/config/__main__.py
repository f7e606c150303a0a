"""Print the JSON Schema that gives completion in editors: python -m utils.config > config/schema.json"""

import json
from typing import Any

from utils.config import names
from utils.config.schema import RunConfig
from utils.config.sections import SECTIONS


def json_schema(names: dict[str, list[str]]) -> dict[str, Any]:
    """The JSON Schema for completion in editors; `names`: the project's own by section, others are valid too."""
    schema = RunConfig.model_json_schema()
    properties = schema["properties"]
    files = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    properties["base"] = files | {"description": "files that this one is merged into, relative to its folder"}
    for model in (schema, *schema["$defs"].values()):
        model.pop("required", None)  # a file may hold only some of the keys
    for section, own in names.items():
        known: dict[str, Any] = {"anyOf": [*([{"enum": own}] if own else []), {"type": "string"}]}
        if section == "trainer":
            schema["$defs"]["TrainerConfig"]["properties"]["type"] |= known
            continue
        field = properties[section]
        forms = {key: field.pop(key) for key in ("$ref", "anyOf", "oneOf", "items") if key in field}
        text = json.dumps(forms).replace('"oneOf"', '"anyOf"')
        for model in ("Part", "OptimizerPart", "SchedulerPart", "MetricPart"):
            ref = {"$ref": f"#/$defs/{model}"}
            part = {"anyOf": [*known["anyOf"], {"allOf": [ref, {"properties": {"type": known}}]}]}
            text = text.replace(json.dumps(ref), json.dumps(part))
        field |= json.loads(text)
    return schema


if __name__ == "__main__":
    offered = {section: sorted(names.own_names(section)) for section in SECTIONS}
    print(json.dumps(json_schema(offered), indent=1))
