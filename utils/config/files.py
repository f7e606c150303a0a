"""Config text -> one tree of plain values that knows which line set which key: merged files, then KEY=VALUE.

YAML 1.2 scalars, so text means what people expect: `1e-3` is a number, `off` a string. A duplicate key is an error.
"""

import codecs
import difflib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UsageError

KeyPath = tuple[str | int, ...]

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # after aliases are expanded: a few lines of YAML can expand to a billion values
TAG = "tag:yaml.org,2002:"


class ConfigError(UsageError):
    """All errors of a config, one line each in `problems`; `notes` are lines that follow them."""

    def __init__(self, problems: list[str], notes: Iterable[str] = ()):
        super().__init__("\n".join([*problems, *notes]))
        self.problems = problems


class Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}


class Dumper(yaml.SafeDumper):
    """Quotes exactly those strings that Loader would read as something else."""

    yaml_implicit_resolvers: dict = {}


for name, pattern, first in (
    ("merge", r"<<", ["<"]),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),  # 012 and 1:30 are strings
    ("float", r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)", list("-+.0123456789")),
    # Infinity and NaN, because Python's json module writes them
    ("float", r"[-+]?(\.(inf|Inf|INF)|Infinity)|\.(nan|NaN|NAN)|NaN", list("-+.IN")),
):
    for cls in (Loader, Dumper):
        cls.add_implicit_resolver(TAG + name, re.compile(rf"(?:{pattern})\Z"), first)

SCALARS: dict[str, Callable[[str], Any]] = {
    TAG + "null": lambda text: None,
    TAG + "bool": lambda text: text.lower() == "true",
    TAG + "int": int,
    TAG + "float": lambda text: float(re.sub(r"\.(?=[in])", "", text.lower())),  # .inf -> inf
    # JSON writes an emoji as two \uXXXX escapes: join them
    TAG + "str": lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
}


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that `word` most likely means: the same in lower case, one typo away, or else similar."""
    by_lower, word = {option.lower(): option for option in options}, word.lower()
    typos = [option for option in by_lower if one_typo(word, option)]
    close = [word] if word in by_lower else typos or difflib.get_close_matches(word, by_lower, n=1)
    return by_lower[close[0]] if close else None


def one_typo(a: str, b: str) -> bool:
    """Whether one letter inserted, deleted or replaced, or two neighbors swapped, turns `a` into `b`."""
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return max(len(a), len(b)) <= 1 or (len(a) == 2 and a == b[::-1])


def did_you_mean(name: str | None) -> str:
    return f" (did you mean '{name}'?)" if name else ""


def shown(value: object) -> str:
    """`value` as it is written in a config, shortened, with invisible characters as \\uXXXX."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    return text if len(text) <= 60 else text[:57] + "..."


def dotted(path: KeyPath) -> str:
    return ".".join(map(str, path))


class Tree:
    """Nested plain values (`data`) and the place that set each key path (`where`)."""

    def __init__(self, data: dict, where: dict[KeyPath, str]):
        self.data, self.where = data, where

    def known(self, path: KeyPath) -> KeyPath:
        """`path` without what the config does not have: a missing key, pydantic's tags of unions."""
        found: KeyPath = ()
        for key in path:
            found = (*found, key) if (*found, key) in self.where else found
        return found

    def place(self, path: KeyPath) -> str:
        """`FILE:LINE: key.path` of the key, or of the closest key that contains it."""
        return self.where[self.known(path)]

    def located(self, message: str, otherwise: KeyPath = ()) -> str:
        """A message that begins with a key of the config, such as `data_loader: ...`, with the place of that key. One
        that begins with none gets the place of the key `otherwise`."""
        start, _, rest = message.partition(": ")
        path = tuple(int(word) if word.isdecimal() else word for word in start.split("."))
        if otherwise and path == ("data_loader",):  # what each loader calls itself, that of the validation too
            path = otherwise
        known = self.known(path)
        if not known:
            return f"{self.place(otherwise)}: {message}" if otherwise else message
        if known == path:
            argument = (*path, "args", rest.partition(" ")[0])  # data_loader: batch_size is 0; ...
            return f"{self.where.get(argument, self.where[path])}: {rest}"
        return f"{self.place(known).removesuffix(f': {dotted(known)}')}: {message}"

    def merge(self, later: "Tree") -> None:
        """Merge mappings deeply and replace all else; a new `type` with `args` replaces the earlier args."""
        self._merge(self.data, later.data, ())
        self.where.update(later.where)

    def _merge(self, old: dict, new: dict, path: KeyPath) -> None:
        for key, value in new.items():
            before, here = old.get(key), (*path, key)
            if isinstance(before, str) and isinstance(value, dict) and "args" in value:
                before = old[key] = {"type": before}  # a part by its bare name
            if isinstance(before, dict) and isinstance(value, dict) and not _other_form(here, before, value):
                if {"type", "args"} <= value.keys() and before.get("type") != value["type"]:
                    before.pop("args", None)
                    self._forget((*here, "args"))
                self._merge(before, value, here)
            else:
                self._forget(here)
                old[key] = value

    def _forget(self, path: KeyPath) -> None:
        for inside in [p for p in self.where if p[: len(path)] == path]:
            del self.where[inside]

    def set(self, override: str) -> None:
        """Set one `KEY=VALUE`: dots separate nested keys, a number selects a list's entry."""
        place = f"command line: {override}"
        key, equals, text = override.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError([f"{place}: not KEY=VALUE, for example trainer.epochs=3"])
        keys = key.split(".")
        if keys[0] == "base":
            raise ConfigError([f"{place}: base is a key of files; put that file first: -c BASE FILE"])
        path: KeyPath = ()
        at: Any = self.data
        for i, word in enumerate(keys):
            if isinstance(at, list):
                if not word.isdecimal() or int(word) >= len(at):
                    entries = f"entries 0 to {len(at) - 1}" if at else "no entries"
                    raise ConfigError([f"{place}: no entry '{word}'; '{dotted(path)}' is a list with {entries}"])
                step: str | int = int(word)
            elif isinstance(at, dict):
                step = word
            else:
                raise ConfigError([f"{place}: '{dotted(path)}' is {shown(at)}, which has no keys"])
            parent, path = at, (*path, step)
            if i == len(keys) - 1:
                break
            if isinstance(parent, dict) and parent.get(step) is None:
                parent[step] = {}  # validation reports an unknown key, with the nearest right one
                self.where[path] = place
            elif isinstance(parent[step], str) and nearest(keys[i + 1], ("type", "args")):
                parent[step] = {"type": parent[step]}
            at = parent[step]
        value, where = parse(text, lambda line: place, path)
        self._forget(path)
        parent[step] = value
        self.where.update(where)


def _other_form(path: KeyPath, old: dict, new: dict) -> bool:
    """Whether one is a part and the other several by name, so that they cannot be merged."""
    one = [bool(part.keys() & {"type", "args", "interval"}) for part in (old, new)]
    return path in (("optimizer",), ("lr_scheduler",), ("valid_data_loader",)) and one[0] != one[1]


def _is_plain(node: yaml.Node, text: str | None = None) -> bool:
    """Whether it is a scalar without quotes, and this one if given."""
    return isinstance(node, yaml.ScalarNode) and node.style is None and text in (None, node.value)


class _Values:
    """Converts YAML nodes to plain values; collects the place of each key and all errors."""

    def __init__(self, at: Callable[[int], str], root: KeyPath):
        self.at, self.root = at, root
        self.where: dict[KeyPath, str] = {}
        self.problems: list[str] = []
        self.nodes = 0

    def place(self, node: yaml.Node, path: KeyPath) -> str:
        at = self.at(node.start_mark.line + 1)
        return at if path == self.root else f"{at}: {dotted(path)}"

    def count(self) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError([f"{self.at(1)}: more than {MAX_NODES:,} values after aliases are expanded"])

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count()
        place = self.where.setdefault(path, self.place(node, path))
        if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
            return self.mapping(node, path)
        if node.tag not in SCALARS:
            self.problems.append(f"{place}: the tag {node.tag.replace(TAG, '!!')} is not accepted; write a plain value")
            return None
        try:
            return SCALARS[node.tag](node.value)
        except ValueError:  # `!!int x`, or more digits than Python converts
            self.problems.append(f"{place}: {shown(node.value)} is not a number")

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in sorted(node.value, key=lambda pair: pair[0].tag != TAG + "merge"):
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            here = (*path, key)
            place = self.place(key_node, here)
            if key_node.tag == TAG + "merge" and "<<" in lines:
                self.problems.append(f"{place}: duplicate key; merge several mappings by <<: [*A, *B]")
            elif key_node.tag == TAG + "merge":  # <<: *defaults, or a list of such, of which the first wins
                lines["<<"] = key_node.start_mark.line + 1
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in reversed(sources):
                    if isinstance(source, yaml.MappingNode):
                        self.count()
                        result |= self.mapping(source, path)
                    else:
                        self.problems.append(f"{place}: expected *ANCHOR of a mapping, or a list of such")
            elif unseen := [c for c in key if not c.isprintable()]:  # a no-break space, copied from a web page
                self.problems.append(f"{place}: U+{ord(unseen[0]):04X} is an invisible character; retype this line")
            elif re.search(r"\w:[^\s/\\]", key) and _is_plain(key_node) and _is_plain(value_node, ""):  # {a:1}
                self.problems.append(f"{place}: a space is missing after the colon in {shown(key)}")
            elif key_node.tag != TAG + "str":
                self.problems.append(f"{place}: a key must be a string; put it in quotes")
            elif key in lines:
                self.problems.append(f"{place}: duplicate key, first given on line {lines[key]}; keep one of the two")
            else:
                lines[key] = key_node.start_mark.line + 1
                if key in result:  # of a merged mapping, with the places of what was in it
                    self.where = {at: line for at, line in self.where.items() if at[: len(here)] != here}
                self.where[here] = place
                result[key] = self.value(value_node, here)
        return result


def parse(
    text: str, at: Callable[[int], str], root: KeyPath = (), form: str = "YAML"
) -> tuple[Any, dict[KeyPath, str]]:
    """The values of a YAML text and the place of each key; `at(line)` names a line in errors, `form` the syntax."""
    values = _Values(at, root)
    try:
        node = yaml.compose(text, Loader)
        data = None if node is None else values.value(node, root)
    except yaml.YAMLError as e:
        mark, problem = getattr(e, "problem_mark", None), getattr(e, "problem", None) or str(e).splitlines()[0]
        advice = "check indentation (spaces, no tabs), colons, brackets and quotes in this line and the one above"
        if root:
            advice = "close all brackets, or put the value in quotes"  # of KEY=VALUE
        elif form == "JSON":
            advice = "check commas, brackets and quotes in this line and the one above; comments begin with #"
        line = mark.line if mark else text.count("\n", 0, getattr(e, "position", 0))
        problem = problem.removeprefix("but ")
        raise ConfigError([f"{at(line + 1)}: this is not valid {form} ({problem}); {advice}"]) from None
    except RecursionError:
        raise ConfigError([f"{at(1)}: nested too deeply, or an alias that contains itself"]) from None
    if values.problems:
        raise ConfigError(values.problems)
    return data, values.where | ({root: at(1)} if node is None else {})


def read(file: Path, asked: str = "", chain: tuple[Path, ...] = ()) -> Tree:
    """The tree of a file, merged over the files of its `base:`. `asked`: the place that names the file, if any."""
    start = f"{asked}: " if asked else ""
    if file in chain:
        cycle = " -> ".join(map(str, (*chain[chain.index(file) :], file)))
        raise ConfigError([f"{start}files include each other: {cycle}; remove one base:"])
    text = _text(file, start)
    is_json = file.suffix == ".json"
    if is_json:
        text = text.replace("\t", " ")  # JSON allows tabs between values, YAML does not
    data, where = parse(text, lambda line: f"{file}:{line}", form="JSON" if is_json else "YAML")
    if not isinstance(data, dict):
        given = "the file is empty" if data is None else f"got {shown(data)}"
        raise ConfigError([f"{file}: {given}, expected a mapping with the keys name, arch, data_loader, ..."])
    where[()] = str(file)
    tree = Tree(data, where)
    bases = tree.data.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError([f"{where['base',]}: got {shown(bases)}, expected a file or a list of files"])
    if not bases:
        return tree
    merged = Tree({}, {})
    for base in bases:
        path = Path(os.path.normpath(file.parent / base))  # relative to the file that names it
        merged.merge(read(path, where["base",], (*chain, file)))
    merged.merge(tree)
    return merged


def _text(file: Path, start: str) -> str:
    try:
        with open(file, "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        folders = dict.fromkeys((file.parent, Path("config")))
        there = [f for folder in folders for f in sorted(folder.glob("*")) if f.suffix in SUFFIXES]
        by_stem = {f.stem: f.as_posix() for f in reversed(there) if f.stem != "schema"}
        if near := nearest(file.stem, by_stem):
            advice = did_you_mean(by_stem[near])
        elif file.suffix in SUFFIXES:
            advice = f"; configs found: {', '.join(by_stem.values()) or 'none'}"
        else:
            advice = "; to set a key of the config, write KEY=VALUE without spaces"
        raise ConfigError([f"{start}{file}: no such file{advice}"]) from None
    except OSError as e:
        raise ConfigError([f"{start}{file}: cannot read it ({e.strerror}); expected a .yaml or .json file"]) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError([f"{start}{file}: larger than {MAX_BYTES // 1_000_000} MB; this is not a config"])
    try:
        return raw.decode("utf-16" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as e:
        if file.suffix not in SUFFIXES:
            raise ConfigError([f"{start}{file}: not UTF-8 text; to continue from a checkpoint, use -r"]) from None
        line = 1 + raw.count(b"\n", 0, e.start)
        raise ConfigError([f"{start}{file}:{line}: not UTF-8 text; save the file as UTF-8"]) from None
