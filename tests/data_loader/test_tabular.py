"""Tables: what is learned from the training rows alone, what testing sees, and every kind of broken file."""

import gzip
import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_loader.tabular import TableDataLoader
from tests.data_loader.batches import first, whole
from tests.tiny import Tiny, tiny
from tests.trainer.checkpoint.harness import unequal
from utils.errors import DataError, UsageError

__all__ = ["tiny"]

pl = pytest.importorskip("polars", reason="needs polars: make extra NAME=tables")
ROOT = Path(__file__).resolve().parents[2]
PENGUINS = str(ROOT / "data_loader/penguins/penguins.csv")
SMALL = "size,color,weight,kind\n1,red,10,a\n2,blue,NA,b\n3,,30,a\n6,red,40,b\n"
loader_args = {"target": "kind", "batch_size": 2, "shuffle": False}


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def small(folder: Path, content: str | bytes = SMALL, **kwargs: Any) -> TableDataLoader:
    return TableDataLoader(write(folder, content), **{**loader_args, **kwargs})


def penguins(**kwargs: Any) -> TableDataLoader:
    return TableDataLoader(PENGUINS, "species", 32, **kwargs)


# --- values


def test_values_by_hand(tmp_path: Path) -> None:
    loader = small(tmp_path)
    inputs, targets = whole(loader)
    size = (np.array([1, 2, 3, 6]) - 3) / np.sqrt(3.5)
    weight = np.array([10, 0, 30, 40]) - np.array([80, 0, 80, 80]) / 3
    weight /= np.sqrt(np.mean((np.array([10, 30, 40]) - 80 / 3) ** 2))
    expected = np.stack([size, weight, [0, 1, 0, 0], [3, 2, 1, 3]], axis=1)  # colors: missing, blue, red
    assert torch.equal(inputs, torch.from_numpy(expected.astype(np.float32)))
    assert targets.tolist() == [0, 1, 0, 1]
    facts = loader.facts
    assert (facts["num_numbers"], facts["category_sizes"], facts["num_classes"]) == (3, [3], 2)
    assert (facts["class_names"], facts["class_counts"]) == (["a", "b"], [2, 2])
    assert facts["table"]["categories"] == {"color": ["", "blue", "red"]}


def test_columns_by_name(tmp_path: Path) -> None:
    assert list(small(tmp_path, features=["weight"]).facts["table"]["numbers"]) == ["weight"]
    learned = small(tmp_path, drop=["weight"], categorical=["size"]).facts["table"]
    assert (learned["numbers"], learned["categories"]["size"]) == ({}, ["1", "2", "3", "6"])
    numbers = "x,y,kind\n1,10,2\n2,9,10\n3,1,2\n"
    assert small(tmp_path, numbers, task="classification").facts["class_names"] == ["2", "10"]  # not "10", "2"
    with pytest.raises(UsageError, match=r"'colour', listed in .* is not a feature \(did you mean 'color'\?\)"):
        small(tmp_path, categorical=["colour"])
    with pytest.raises(UsageError, match="'kind' is the target, and among the features"):
        small(tmp_path, features=["kind"])
    with pytest.raises(UsageError, match=r"no column of .*t.csv is left to predict from"):
        small(tmp_path, drop=["size", "color", "weight"])


def test_few_whole_numbers_are_classes(tmp_path: Path) -> None:
    for values, names in (("01", ["0", "1"]), (["1.0", "2.0", "10.0"], ["1", "2", "10"])):
        rows = [f"{i},{values[i % len(values)]}" for i in range(24)]
        loader = small(tmp_path, "\n".join(["x,kind", *rows, "5,NA"]))
        assert loader.facts["class_names"] == names
        assert "num_classes" not in small(tmp_path, "\n".join(["x,kind", *rows]), task="regression").facts
    for value in (lambda i: i, lambda i: i % 3 / 2):  # each once, or with fractions
        table = "x,kind\n" + "".join(f"{i},{value(i)}\n" for i in range(24))
        assert "target_mean" in small(tmp_path, table).facts


def test_parquet(tmp_path: Path) -> None:
    table = pl.read_csv(write(tmp_path, SMALL), null_values="NA")
    table.write_parquet(tmp_path / "t.parquet")
    loader = TableDataLoader(str(tmp_path / "t.parquet"), **loader_args)  # type: ignore[arg-type]
    assert torch.equal(whole(loader)[0], whole(small(tmp_path))[0])
    assert loader.facts == small(tmp_path).facts
    gaps = table.with_columns(size=pl.Series([1.0, 2.0, float("nan"), 6.0]), weight=pl.Series([None] * 4))
    gaps.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"the column 'weight' has no values; leave it out"):
        TableDataLoader(str(tmp_path / "t.parquet"), **loader_args)  # type: ignore[arg-type]
    options: dict[str, Any] = {"test_file": str(tmp_path / "t.parquet"), "training": False, "facts": loader.facts}
    missing = whole(small(tmp_path, **options))[0]
    assert missing[2, 0] == 0  # the mean
    assert missing[:, 2].tolist() == [1, 1, 1, 1]
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"t.parquet is not a sound Parquet file"):
        TableDataLoader(str(tmp_path / "t.parquet"), **loader_args)  # type: ignore[arg-type]
    dates = table.with_columns(size=pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 1, 4), eager=True))
    dates.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"the column 'size' is of type Date, neither numbers nor text; leave it out"):
        TableDataLoader(str(tmp_path / "t.parquet"), **loader_args)  # type: ignore[arg-type]


def test_rows_without_target_are_left_out_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "groundwork.data_loader")
    loader = small(tmp_path, SMALL + "9,red,50,NA\n8,blue,2,\n")
    assert len(loader.dataset) == 4
    assert "2 of 6 rows have no target 'kind' and are left out (the first is row 6)" in caplog.text
    assert "missing values: weight 1, color 1" in caplog.text
    ids = "id,kind\n" + "".join(f"n{i},{'ab'[i % 2]}\n" for i in range(60))
    small(tmp_path, ids)
    assert "'id' has 60 different values in 60 training samples; if it only names the row, leave it out" in caplog.text


# --- only the training samples are learned from


@pytest.mark.parametrize(
    "split", [{"validation_split": 0.25}, {"fold": 2, "folds": 5, "stratify": True}, {"fold": 0, "folds": 3}, {}]
)
def test_learned_of_the_training_samples_alone(split: dict[str, Any]) -> None:
    table = pl.read_csv(PENGUINS, null_values="NA")
    for held_out in (0.2, 0):
        loader = penguins(test_split=held_out, **split)
        rows = loader.dataset.table.rows[loader.samples(np.arange(len(loader.samples)))] - 2  # type: ignore[attr-defined]
        assert len(rows) == {0.2: 276, 0: 344}[held_out] - len(loader._validation)
        learned = loader.facts["table"]
        for name, (mean, deviation) in learned["numbers"].items():
            values = table[name].cast(pl.Float64).to_numpy()
            values, everything = values[rows], values
            assert (mean, deviation) == pytest.approx((np.nanmean(values), np.nanstd(values)), rel=1e-12)
            leaks = mean == pytest.approx(np.nanmean(everything), rel=1e-12)
            assert leaks == (len(rows) == 344)
        assert sum(loader.facts["class_counts"]) == len(rows)


def test_a_category_that_only_validates_is_unknown(tmp_path: Path) -> None:
    text = "x,color,kind\n" + "".join(f"{i},c{i},{'ab'[i % 2]}\n" for i in range(20))
    loader = small(tmp_path, text, validation_split=4)
    validation = loader.split_validation()
    assert whole(validation)[0][:, 1].tolist() == [0, 0, 0, 0]
    assert sorted(whole(loader)[0][:, 1].tolist()) == [*range(1, 17)]
    assert loader.facts["category_sizes"] == [16]


def test_what_trains_validates_and_tests_is_disjoint() -> None:
    """And each class has its share of the test rows."""
    loader, facts = penguins(test_split=0.2), penguins(test_split=0.2).facts
    test = penguins(test_split=0.2, training=False, facts=facts)
    seen, held_out = (set(part.dataset.table.rows.tolist()) for part in (loader, test))  # type: ignore[attr-defined]
    assert (len(seen), len(held_out), len(seen | held_out)) == (276, 68, 344)
    assert whole(test)[1].bincount().tolist() == pytest.approx([152 * 0.2, 68 * 0.2, 124 * 0.2], abs=1)


def test_options_of_every_loader() -> None:
    """Classes by name, columns, and data that stays on the device."""
    loader = penguins(balanced=True, weights={"Adelie": 2}, group="island", validation_split=0.2, resident=True)
    classes = whole(loader)[1].bincount()
    drawn = torch.cat([torch.from_numpy(loader.dataset.labels[loader.indices(step)]) for step in range(len(loader))])
    assert drawn.bincount()[0] == pytest.approx(len(loader.samples) / 2, abs=2)
    assert len(classes) == 3
    rows = loader._validation(np.arange(len(loader._validation)))
    assert len(set(loader.dataset.column("island")[rows])) == 1
    with pytest.raises(UsageError, match="group is isle, but TableRows has no column or attribute of this name"):
        penguins(group="isle", validation_split=0.2)


# --- testing


def test_testing_goes_by_what_was_learned(tmp_path: Path) -> None:
    loader = small(tmp_path)
    Path(write(tmp_path, "")).unlink()
    test = TableDataLoader(
        str(tmp_path / "t.csv"),
        test_file=write(tmp_path, "kind,weight,color,size,more\nb,,green,1,x\nb,10,,NA,y\n", "test.csv"),
        training=False,
        facts=loader.facts,
        target="kind",
    )
    inputs, targets = whole(test)
    low = loader.facts["table"]["numbers"]["size"]
    expected = [[(1 - low[0]) / low[1], 0, 1, 0], [0, (10 - 80 / 3) / np.std([10, 30, 40]), 0, 1]]
    torch.testing.assert_close(inputs, torch.tensor(expected, dtype=torch.float32))  # green: 0, missing: 1
    assert targets.tolist() == [1, 1]
    assert {**loader.facts, "class_counts": 0} == {**test.facts, "class_counts": 0}


def test_a_validation_table_is_read_by_what_was_learned(tmp_path: Path) -> None:
    """valid_data_loader: {type: TableDataLoader, args: {file: valid.csv, training: true, ...}}"""
    facts = small(tmp_path).facts
    valid = small(tmp_path, "size,color,weight,kind\n3,blue,10,b\n3,red,10,b\n", facts=facts)
    assert whole(valid)[0][:, 0].tolist() == [0, 0]
    assert whole(valid)[1].tolist() == [1, 1]
    assert valid.facts["table"] == facts["table"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("size,weight,kind\n1,2,a\n", r"test.csv has no column 'color'; it has size, weight, kind"),
        (
            "size,color,weight,kind\n1,red,2,a\n1,red,2,c\n",
            r"test.csv, row 3, column 'kind': the class 'c' is in no tra",
        ),
        ("size,color,weight,kind\n1,red,big,a\n", r"test.csv, row 2, column 'weight': got 'big', expected a number"),
        ("size,color,weight\n1,red,2\n", r"test.csv has no column 'kind'; it has"),
    ],
)
def test_test_data_that_does_not_fit(tmp_path: Path, text: str, words: str) -> None:
    facts = small(tmp_path).facts
    with pytest.raises(DataError, match=words):
        small(tmp_path, training=False, facts=facts, test_file=write(tmp_path, text, "test.csv"))


def test_test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no test data; give test_file, or test_split"):
        small(tmp_path, training=False, facts=small(tmp_path).facts)
    with pytest.raises(UsageError, match="what was learned from the training samples, which is missing"):
        small(tmp_path, training=False, test_split=1)
    with pytest.raises(UsageError, match="test_file and test_split both say"):
        small(tmp_path, test_file="x.csv", test_split=1)
    for value in (4, -1, 1.0, 0.1):
        with pytest.raises(UsageError, match=r"test_split is .*; give a fraction between 0.0 and 1.0, or .* 1 to 3"):
            small(tmp_path, test_split=value)
    with pytest.raises(UsageError, match="test_split divides rows at random, also those of one color"):
        small(tmp_path, test_split=1, group="color")


# --- files as they come


ROWS = "x,y,kind\n1,é,a\n2,ü,b\n3,é,b\n"


@pytest.mark.parametrize(
    "content, options",
    [
        (ROWS.encode("utf-8-sig"), {}),
        (ROWS.replace("\n", "\r\n").encode(), {}),
        (ROWS.replace("\n", "\r").encode(), {}),
        (ROWS.encode("utf-16"), {}),
        (ROWS.encode("latin-1"), {"encoding": "cp1252"}),
        (ROWS.encode("utf-16-le"), {"encoding": "utf-16-le"}),
        (ROWS.rstrip().encode(), {}),
        ((ROWS + "\n\n").encode(), {}),
        (ROWS.replace("3,", "\n3,").encode(), {}),
        (("\n\n" + ROWS).encode(), {}),
        (ROWS.replace(",", ";").encode(), {"separator": ";"}),
        (ROWS.replace(",", ";").encode(), {}),
        (ROWS.replace(",", "\t").encode(), {}),
        (("\ufeffsep=;\r\n" + ROWS.replace(",", ";").replace("\n", "\r\n")).encode(), {}),
        (gzip.compress(ROWS.encode(), mtime=0), {}),
        (ROWS.replace(",", " , ").encode(), {}),
        (ROWS.replace("é", '"é"').replace("kind", '"kind"').encode(), {}),
    ],
    ids=["BOM", "CRLF", "CR", "UTF-16", "cp1252", "UTF-16-LE", "no last newline", "blank lines at the end",
         "a blank line", "blank lines first", "separator",
         "semicolons", "tabs", "Excel's first line", "gzip", "spaces", "quotes"],
)  # fmt: skip
def test_the_same_table(content: bytes, options: dict[str, Any], tmp_path: Path) -> None:
    expected, got = small(tmp_path, ROWS), small(tmp_path, content, **options)
    assert torch.equal(whole(got)[0], whole(expected)[0])
    assert got.facts == expected.facts


def test_facts_of_an_older_checkpoint_have_names_as_they_were_written(tmp_path: Path) -> None:
    rows = "c,y\n" + "2.0,0.0\n3.0,1.0\n" * 3
    file = write(tmp_path, rows)
    options: dict[str, Any] = {"target": "y", "categorical": ["c"], "batch_size": 2}
    facts = TableDataLoader(file, **options).facts
    learned = facts["table"]
    assert (learned["classes"], learned["categories"]) == (["0", "1"], {"c": ["2", "3"]})
    older = facts | {"table": learned | {"classes": ["0.0", "1.0"], "categories": {"c": ["2.0", "3.0"]}}}
    both = [TableDataLoader(file, test_file=file, training=False, facts=f, **options) for f in (facts, older)]
    assert all(torch.equal(a, b) for a, b in zip(*map(whole, both), strict=True))
    assert whole(both[1])[0][:, 0].tolist() == [1, 2] * 3


def test_few_whole_numbers_that_recur_are_classes(tmp_path: Path) -> None:
    rows = "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(40))
    assert small(tmp_path, rows, target="y").facts["class_names"] == ["0", "1"]
    assert "class_names" not in small(tmp_path, rows, target="y", task="regression").facts
    with pytest.raises(DataError, match=r"row 7, column 'y': got 'l', expected a number"):
        small(tmp_path, rows.replace("\n5,1\n", "\n5,l\n"), target="y")
    assert "class_names" not in small(tmp_path, "x,y\n" + "".join(f"{i},{i}\n" for i in range(40)), target="y").facts


def test_an_empty_line_is_a_missing_value_where_there_is_one_column(tmp_path: Path) -> None:
    facts = small(tmp_path, "x,y\n1,a\n2,b\n", target="y").facts
    loader = TableDataLoader(str(tmp_path), "y", facts=facts, training=False, predict=[write(tmp_path, "x\n1\n\n3\n")])
    assert loader.unlabeled is not None
    assert (len(loader.dataset), loader.unlabeled.names) == (3, [1, 2, 3])  # type: ignore[arg-type]


def test_a_column_without_a_name_numbers_the_rows(tmp_path: Path) -> None:
    """As pandas writes it, or where a separator ends each row."""
    unnamed = "Unnamed: 0,x,kind\n0,1,a\n1,2,b\n"  # as it reads such a table, and writes it again
    for content in (",x,kind\n0,1,a\n1,2,b\n", "x,kind,\n1,a,\n2,b,\n", ",x,kind,\n0,1,a,\n1,2,b,\n", unnamed):
        assert list(small(tmp_path, content).facts["table"]["numbers"]) == ["x"]
    assert list(small(tmp_path, ",x,kind\n0,1,a\n1,2,b\n", features=[""]).facts["table"]["numbers"]) == [""]


def test_quoted_fields(tmp_path: Path) -> None:
    loader = small(tmp_path, 'x,y,kind\n1,"a, b",a\n2,"two\nlines",b\n3,"5"" pipe",b\n4,5" pipe,a\n', batch_size=4)
    assert loader.facts["table"]["categories"]["y"] == ['5" pipe', "a, b", "two\nlines"]
    assert whole(loader)[0][:, 1].tolist() == [2, 3, 1, 1]


@pytest.mark.parametrize(
    "content, options, words",
    [
        (None, {}, r"there is no file .*t.csv; set file or test_file in data_loader.args"),
        ("", {}, r"t.csv is empty; it needs a header"),
        ("\n\n", {}, r"t.csv is empty; it needs a header"),
        ("a,kind\n", {}, r"t.csv has no rows; it needs a header and a row for each sample"),
        (SMALL, {"target": "knid"}, r"t.csv has no column 'knid' \(did you mean 'kind'\?\); it has size, color"),
        (SMALL, {"drop": ["heavy"]}, r"t.csv has no column 'heavy'; it has size"),
        (SMALL.replace(",", "!"), {}, r"t.csv has no column 'kind'; it has size!color!weight!kind"),
        (SMALL, {"separator": "||"}, r"separator is '\|\|'; give one character"),
        ("x;kind\n1,5;a\n2,5;b\n", {}, r"t.csv: the column 'x' has values such as '1,5'; write numbers as 1234.5"),
        ("x,kind\n10%,a\n20 %,b\n", {}, r"the column 'x' has values such as '10%'; write numbers .* in categorical"),
        ('x,kind\n"1,000",a\n"2,500.5",b\n', {}, r"the column 'x' has values such as '1,000'; write numbers as"),
        ("x,kind\n1e300,a\n-1e308,b\n", {}, r"the column 'x' has numbers beyond 1e\+100; divide them all"),
        (b"\x1f\x8b\x08 no more", {}, r"t.csv is not a sound gzip file"),
        (SMALL.replace("30", "3o"), {}, r"t.csv, row 4, column 'weight': got '3o', expected a number like most"),
        (SMALL.replace("30", "1e999"), {}, r"t.csv, row 4, column 'weight': got '1e999', expected a number"),
        (SMALL, {"numeric": ["color"]}, r"t.csv, row 2, column 'color': got 'red', expected a number"),
        (SMALL.replace("b\n", "a\n"), {}, r"t.csv, column 'kind': all training samples are of one class, 'a'"),
        (SMALL + "1,red,2,a,5\n", {}, r"t.csv, row 6: 5 fields, more than the 4 of the header; put a field"),
        (SMALL + "1,red\n", {}, r"t.csv, row 6: 2 fields, fewer than the 4 of the header"),
        (SMALL + '1,"red,2,a\n', {}, r"t.csv, line \d: unexpected end of data; correct the quotes"),
        (SMALL.replace("red", "r\0d"), {}, r"t.csv, line 2: a NUL character, which no text has"),
        (SMALL.encode("utf-16-le"), {}, r"t.csv, line 1: a NUL character"),
        (SMALL.replace("blue", "bleu é").encode("latin-1"), {}, r"t.csv, line 3: the byte 0xe9 is not utf-8; save"),
        (SMALL, {"encoding": "utf8000"}, r"encoding is 'utf8000', which Python does not know"),
        (SMALL.replace("weight", "size"), {}, r"t.csv: two columns are called 'size'; rename one"),
        ("x,kind\nNA,a\n,b\n", {}, r"the column 'x' has no values; leave it out: drop: \['x'\]"),
        ("x,kind\n1,NA\n2,\n", {}, r"the target 'kind' is missing in all rows"),
        ("x,kind\n1,a\n2,b\n3,c\n", {"fold": 0, "folds": 3}, r"column 'kind': the class '.' is in no training sample"),
        (b"PAR1\x15", {}, r"t.csv is a Parquet file"),
        ('{"x": 1, "kind": "a"}\n' * 2, {}, r"t.csv has no column 'kind'; it has .*HuggingFaceDataLoader reads JSON"),
        (b"PK\x03\x04\x14\x00\xff", {}, r"t.csv is a spreadsheet or a zip file; save it as CSV"),
    ],
)  # fmt: skip
def test_one_clear_line(content: Any, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write(tmp_path, content or "")
    if content is None:
        Path(path).unlink()
    with pytest.raises(UsageError, match=words) as error:
        TableDataLoader(path, **{**loader_args, **options})
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_without_polars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UsageError, match="tables are read by polars, which is not installed: make extra NAME=tables"):
        small(tmp_path)


# --- whole runs


def config(**args: Any) -> list[str]:
    args = {"file": PENGUINS, "target": "species", "batch_size": 32, "validation_split": 0.2} | args
    loader = ", ".join(f"{name}: {value}" for name, value in args.items())
    return [f"data_loader={{type: TableDataLoader, args: {{{loader}}}}}",
            "arch={type: TabularMLP, args: {hidden: [16], dropout: 0.1}}", "trainer.limit_batches=null",
            "optimizer={type: AdamW, args: {lr: 0.01}}"]  # fmt: skip


def test_stop_and_resume_are_bit_equal(tiny: Tiny) -> None:
    options = config()
    tiny.train(*options, "trainer.epochs=2", run="whole")
    tiny.train(*options, "trainer.epochs=1", run="cut")
    tiny.train(*options, "trainer.epochs=2", run="cut", checkpoint="checkpoint-step9.pth")
    one, two = (tiny.load("checkpoint-step18.pth", run) for run in ("whole", "cut"))
    assert not list(unequal(one["model"], two["model"])) + list(unequal(one["optimizer"], two["optimizer"]))
    assert one["facts"] == two["facts"]
    assert tiny.points("valid", "whole") == tiny.points("valid", "cut")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # polars has threads
def test_workers_and_micro_batches_change_nothing(tiny: Tiny) -> None:
    loaders = [penguins(num_workers=count) for count in (0, 2)]
    for step in (0, 9):
        assert all(torch.equal(a, b) for a, b in zip(*(first(loader, step) for loader in loaders), strict=True))
    options = [*config(), "arch.args.dropout=0", "optimizer={type: SGD, args: {lr: 0.1}}", "trainer.epochs=1"]
    one = tiny.train(*options, run="one").model.state_dict()
    two = tiny.train(*options, "trainer.accumulate=2", run="two").model.state_dict()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6)


def test_test_py_needs_no_training_data(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = Path(PENGUINS).read_text().splitlines(keepends=True)
    header, rows = lines[0], lines[1:]
    train = write(tmp_path, header + "".join(rows[0::4] + rows[1::4] + rows[2::4]), "train.csv")
    test = write(tmp_path, header + "".join(rows[3::4]).replace("Dream", "Atlantis", 1), "test.csv")
    tiny.train(*config(file=train, test_file=test, validation_split=0), "trainer.epochs=12")
    Path(train).unlink()
    spec = importlib.util.spec_from_file_location("test_script", ROOT / "test.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    capsys.readouterr()
    script.main(["-r", str(tiny.folder / "run")])
    assert "on 86 test samples" in capsys.readouterr().out
    assert tiny.points("test")[0]["accuracy"] > 0.95


def test_regression_is_in_the_units_of_the_target(tiny: Tiny) -> None:
    """The error is in grams, and smaller than that of the mean."""
    options = config(target="body_mass_g", drop="[species]", test_split=0.2)
    trainer = tiny.train(*options, "loss=L1Loss", "metrics=[]", "trainer.epochs=8")
    facts = trainer.config.facts
    assert "num_classes" not in facts
    assert facts["target_mean"] == pytest.approx(4200, abs=100)
    assert facts["target_std"] == pytest.approx(800, abs=100)
    assert trainer.model.target_std == facts["target_std"]
    assert tiny.points("valid")[0]["loss"] > 400
    assert tiny.points("valid")[-1]["loss"] < 330
    targets = whole(trainer.data_loader)[1]
    assert (targets.dtype, targets.dim()) == (torch.float32, 1)


@pytest.mark.slow
def test_penguins_in_five_folds(tmp_path: Path) -> None:
    import train
    from utils.config import load

    accuracies = []
    for fold in range(5):
        args = f"fold={fold} folds=5 validation_split=0 test_split=0 file={PENGUINS}".split()
        options = [*(f"data_loader.args.{arg}" for arg in args), f"trainer.save_dir={tmp_path}", f"name=fold{fold}"]
        accuracies.append(train.run(load([ROOT / "config/penguins.yaml"], options)).values["val_accuracy"])
    assert np.mean(accuracies) >= 0.97
