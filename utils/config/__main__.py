"""Print the JSON Schema that gives completion in editors: python -m utils.config > config/schema.json"""

import json

from utils.config import names
from utils.config.schema import json_schema

if __name__ == "__main__":
    offered = {section: sorted(names.own_names(section)) for section in names.SECTIONS}
    print(json.dumps(json_schema(offered), indent=1))
