"""Each recipe of docs/data.md passes the config check."""

import re

import pytest
import yaml

from tests.conftest import ROOT
from utils import config as configs

TEXT = (ROOT / "docs/data.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
WITH_CONFIG = {title: text for title, body in RECIPES for text in re.findall(r"```yaml\n(.*?)```", body, re.DOTALL)}
BASE = {
    "name": "recipe",
    "arch": {"type": "ConvNet"},
    "data_loader": "DigitsDataLoader",
    "loss": "cross_entropy",
    "metrics": ["accuracy"],
    "optimizer": "AdamW",
    "trainer": {"epochs": 1},
}


@pytest.mark.parametrize("title", WITH_CONFIG)
def test_recipe(title):
    recipe = yaml.safe_load(WITH_CONFIG[title])
    configs.load([BASE | recipe | {"trainer": {"epochs": 1} | recipe.get("trainer", {})}]).check()


def test_all_are_found():
    assert len(WITH_CONFIG) == len(RECIPES) - 1 == 11


def test_a_wrong_key_in_a_recipe_is_found():
    wrong = yaml.safe_load(WITH_CONFIG["Folders of images"].replace("size: 224", "sise: 224"))
    with pytest.raises(configs.ConfigError, match="sise"):
        configs.load([BASE | wrong]).check()
