"""Texts: tokens, classes, vocabularies in checkpoints, blocks and lines for language models, and what is wrong with
files of text."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import test as testing
from data_loader.engine.texts.plain_text import split_rows
from data_loader.engine.texts.tokens import UNKNOWN, Encoder, learn
from data_loader.text import (
    LanguageModelDataLoader,
    LinesDataLoader,
    TextFolderDataLoader,
    TextTableDataLoader,
)
from tests.data_loader.batches import whole
from tests.tiny import Tiny, tiny
from tests.trainer.parallel.ranks import on_ranks, trained
from utils.errors import DataError, UsageError
from utils.run_folder import find_checkpoint

__all__ = ["tiny"]
NSMC = Path(__file__).resolve().parents[3] / "shared/data/nsmc"
GOOD, BAD = "정말 좋은 영화", "너무 지루하다"
OPTIONS: dict[str, Any] = {
    "vocab_size": None, "min_count": 1, "ngrams": (1, 2), "lowercase": False, "normalize": "NFC", "max_length": 100,
    "tokenizer": None,
}  # fmt: skip


def write(path: Path, n: int = 40, end: str = "\n", classes: tuple[str, str] = ("good", "bad")) -> Path:
    """A table of n reviews of different lengths; every second one is good."""
    rows = [f"{i}\t{(GOOD, BAD)[i % 2]}{' !' * (i % 7)}\t{classes[i % 2]}" for i in range(n)]
    path.write_bytes(end.join(["id\tdocument\tlabel", *rows, ""]).encode())
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "train.tsv")


def load(path: Path, **options: Any) -> TextTableDataLoader:
    return TextTableDataLoader(str(path), "document", **{"batch_size": 8, **options})


# --- tokens


@pytest.mark.parametrize(
    "unit, expected",
    [
        ("characters", [[3, 2, 1], [2], [1]]),  # the most frequent character of "aab", "ab" is a
        ("bytes", [[100, 99, 0xED + 2, 0x95 + 2, 0x9C + 2], [99], [1]]),
        ("words", [[1], [1], [1]]),
    ],
)
def test_tokens(unit: Any, expected: list[list[int]]) -> None:
    learned = learn(["aab", "ab"], unit, **OPTIONS)
    found = Encoder(learned)(["ba한", "a", ""])
    assert [found.padded(np.array([i]))[0].tolist() for i in range(3)] == expected
    assert found.padded(np.arange(3)).shape == (3, max(map(len, expected)))
    assert (found.padded(np.arange(3)) > 0).sum() == sum(map(len, expected))


def test_words_are_split_at_signs_and_the_most_frequent_are_kept() -> None:
    learned = learn(["Good good, film!"], "words", **OPTIONS | {"lowercase": True, "vocab_size": 4})
    assert learned["vocabulary"] == ["good", "!"]
    assert Encoder(learned)(["good film !"]).padded(np.array([0])).tolist() == [[2, UNKNOWN, 3]]


def test_ngrams_are_those_of_one_text_with_a_space_around_it() -> None:
    learned = learn([], "ngrams", **OPTIONS | {"ngrams": (1, 3)})
    texts = ["ab", "", "b", "ab c"]
    together = Encoder(learned)(texts)
    for i, text in enumerate(texts):  # no n-gram reaches into the next text
        alone = Encoder(learned)([text])
        assert together.padded(np.array([i])).tolist() == alone.padded(np.array([0])).tolist()
    # a, b; " a", "ab", "b "; " ab", "ab "
    assert together.lengths[:3].tolist() == [7, 1, 1 + 2 + 1]
    assert len(set(together.padded(np.array([0]))[0].tolist())) == 7
    assert together.values.max() < 2**17


def test_a_composed_and_a_decomposed_syllable_are_one() -> None:
    learned = learn(["가나"], "characters", **OPTIONS)
    decomposed = "\u1100\u1161\u1102\u1161"
    assert decomposed != "가나"
    assert Encoder(learned)([decomposed]).padded(np.array([0])).tolist() == [[2, 3]]


def test_the_library_tokenizers(table: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "정말": 1, "좋은": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "words.json"))
    loader = load(table, tokenizer=str(tmp_path / "words.json"), shuffle=False)
    assert loader.facts["vocab_size"] == 5
    assert loader.dataset[0][0].tolist() == [3, 4, 2]
    (tmp_path / "words.json").unlink()  # the facts have it
    again = load(table, training=False, test_file=str(table), facts=loader.facts, shuffle=False)
    assert again.dataset[0][0].tolist() == [3, 4, 2]
    (tmp_path / "words.json").write_text("{}")
    with pytest.raises(DataError, match="is not a file of the library tokenizers"):
        load(table, tokenizer=str(tmp_path / "words.json"))


# --- classification


def test_the_vocabulary_is_that_of_the_training_samples_alone(table: Path) -> None:
    lines = table.read_text().splitlines()
    numbered = [f"{line.split(chr(9))[0]}\t{chr(0x4E00 + i)}\t{line.split(chr(9))[2]}" for i, line in enumerate(lines)]
    table.write_text("\n".join([lines[0], *numbered[1:]]))
    loader = load(table, validation_split=10)
    assert loader.facts["vocab_size"] == 2 + 30
    assert sum(loader.facts["class_counts"]) == 30
    validation = loader.split_validation()
    assert validation is not None
    assert set(whole(validation)[0].flatten().tolist()) == {UNKNOWN}


def test_folders(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name, text in (("1", GOOD), ("2", BAD), ("10", "so so")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                (tmp_path / part / name / f"{i}.txt").write_text(text * (i + 1), encoding="utf-8")
    loader = TextFolderDataLoader(str(tmp_path), 4, tokens="words")
    assert loader.facts["class_names"] == ["1", "2", "10"]
    tests = TextFolderDataLoader(str(tmp_path), 100, training=False, facts=loader.facts, shuffle=False)
    tokens, labels = whole(tests)
    assert labels.tolist() == [0, 0, 0, 2, 2, 2, 1, 1, 1]  # in the order of paths
    assert tokens.shape == (9, 7)


CLASSIFY = ["arch={type: BagOfTokens, args: {width: 4}}", "trainer={epochs: 2, limit_batches: null, save_steps: 3}"]


def classify(table: Path, **options: Any) -> list[str]:
    args = {"file": str(table), "test_file": str(table), "text": "document", "batch_size": 8, **options}
    shown = ", ".join(f"{name}: {value}" for name, value in args.items())
    return [f"data_loader={{type: TextTableDataLoader, args: {{{shown}}}}}", *CLASSIFY]


def test_a_checkpoint_has_the_vocabulary_that_test_py_reads_with(tiny: Tiny, table: Path) -> None:
    done = tiny.train(*classify(table, tokens="words"))
    saved = tiny.load(tiny.checkpoints()[-1])
    assert saved["facts"]["text"]["vocabulary"] == done.data_loader.facts["text"]["vocabulary"]
    write(table, 12)  # another file, of which nothing may be learned
    table.write_text(table.read_text().replace("영화", "드라마"))
    testing.main(["-r", str(find_checkpoint(str(tiny.folder / "run")))])
    assert tiny.points("test")[0]["accuracy"] > 0.9
    tests = load(table, training=False, test_file=str(table), facts=saved["facts"], shuffle=False, batch_size=99)
    assert (whole(tests)[0][::2, 2] == UNKNOWN).all()


def test_workers_and_a_resume_give_the_same_bits(tiny: Tiny, table: Path) -> None:
    weights = []
    for run, more in (
        ("whole", []),
        ("workers", ["data_loader.args.num_workers=2"]),
        ("halved", ["trainer.max_steps=5"]),
    ):
        done = tiny.train(*classify(table, tokens="ngrams", vocab_size=50), "data_loader.args.bucket=2", *more, run=run)
        weights.append(done.model.state_dict())
    resumed = tiny.train(*classify(table, tokens="ngrams", vocab_size=50), "data_loader.args.bucket=2", run="halved")
    for other in (weights[1], resumed.model.state_dict()):
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())
    assert tiny.points("train", "halved") == tiny.points("train", "whole") == tiny.points("train", "workers") != []


# --- what is wrong with files

HEAD = b"document\tlabel\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "there is no file .*train.tsv; set file"),
        (b"", "train.tsv is empty"),
        (b"\n \n", "train.tsv is empty"),
        (HEAD, "train.tsv has no rows"),
        (b"document,label\na,1\nb,0\n", "has no column 'document'; it has document,label; does another character"),
        (b"dokument\tlabel\na\t1\nb\t0\n", "has no column 'document' .*'dokument'.*; it has dokument, label"),
        (b"document\tlabel\tlabel\na\t1\t1\n", "two columns are called 'label'"),
        (HEAD + b"a\t1\nb\t0\tc\n", "train.tsv, line 3: 3 fields, more than the 2 of the header"),
        (HEAD + b"a\t1\nb\n", "train.tsv, line 3: 1 fields, fewer than the 2"),
        (HEAD + b"a\t1\nb\t\n", "train.tsv, line 3: no label in the column 'label'"),
        (HEAD + b"a\t1\nb\tNaN\n", "train.tsv, line 3: no label in the column 'label'"),
        (HEAD + b"a\t1\nb\t1\n", "all training samples are of one class, '1'"),
        (b"PAR1\x15\x00", "train.tsv is a Parquet file"),
        (HEAD + b"a\t1\nb\0\t0\n", "train.tsv, line 3: a NUL character"),
        (HEAD + b"a\t1\n" + "한".encode("cp949") + b"\t0\n", "train.tsv, line 3: the byte 0xc7 is not utf-8;.*cp949"),
    ],
)
def test_wrong_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load(path, batch_size=1)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_wrong_quotes_and_encodings(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('document,label\n"a ""x"", b",1\n"two\nlines",0\n"c" d,1\n')
    with pytest.raises(DataError, match=r"train.csv, line 5: .*correct the quotes"):
        load(path, batch_size=1)
    path.write_text('document,label\n"a ""x"", b",1\n"two\nlines",0\nc,\n')
    with pytest.raises(DataError, match=r"train.csv, line 5: no label"):
        load(path, batch_size=1)
    with pytest.raises(UsageError, match="encoding is 'utf-9', which Python does not know"):
        load(path, encoding="utf-9")


@pytest.mark.parametrize(
    "content, options",
    [
        (("\ufeff" + "document\tlabel\n한글\t1\nb\t0\n").encode(), {}),  # with a BOM
        ("document\tlabel\r\n한글\t1\r\nb\t0\r\n".encode(), {}),
        ("document\tlabel\r한글\t1\rb\t0".encode(), {}),
        ("document\tlabel\n한글\t1\nb\t0\n".encode("utf-16"), {}),
        ("document\tlabel\n한글\t1\n\nb\t0\n".encode("cp949"), {"encoding": "cp949"}),
        ('label,document\n1,"한글"\n"0",b\n'.encode(), {"separator": ","}),
        ("sep=\t\ndocument\tlabel\n한글\t1\nb\t0\n".encode(), {}),
        (gzip.compress("document\tlabel\n한글\t1\nb\t0\n".encode(), mtime=0), {}),
        ("document\tlabel\n\u1112\u1161\u11ab글\t1\nb\t0\n".encode(), {}),
    ],
)
def test_files_that_are_right(content: bytes, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes(content)
    loader = load(tmp_path / "train.tsv", batch_size=1, shuffle=False, **options)
    assert loader.facts["text"]["vocabulary"] == ["b", "글", "한"]
    assert loader.facts["class_names"] == ["0", "1"]
    assert [(tokens.tolist(), int(label)) for tokens, label in loader.dataset] == [([4, 3], 1), ([2], 0)]


def test_rows_are_counted_without_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text('document,label\n"a\nb",1\n\nb,2,3\n\nc,0\n')
    found = split_rows(path, path.read_text(), ",", 0)
    assert (found.columns, found.rows, found.lines) == (
        {"document": ["a\nb", "c"], "label": ["1", "0"]},
        [2, 4],
        [2, 7],
    )
    assert found.bad[3].startswith(f"{path}, row 3: 3 fields, more than the 2 of the header")


def test_a_carriage_return_in_a_text_ends_no_line(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes(HEAD + b"a\rb\t1\nb\t0\n")
    loader = load(tmp_path / "train.tsv", batch_size=1)
    assert len(loader.dataset) == 2
    assert loader.facts["text"]["vocabulary"] == ["b", " ", "a"]


def test_a_class_that_the_training_data_does_not_have(table: Path, tmp_path: Path) -> None:
    loader = load(table)
    other = write(tmp_path / "test.tsv", 4, classes=("good", "goot"))
    with pytest.raises(DataError, match=r"test.tsv, line 3: the class 'goot' is in no training sample .*'good'"):
        load(table, training=False, test_file=str(other), facts=loader.facts)


def test_test_data_needs_a_file_and_facts(table: Path) -> None:
    with pytest.raises(UsageError, match=r"set data_loader\.args\.test_file"):
        load(table, training=False, facts={})
    with pytest.raises(UsageError, match=r"give facts=loader.facts"):
        load(table, training=False, test_file=str(table))


# --- language models


def test_blocks(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(100)))
    loader = LanguageModelDataLoader(str(path), block_size=8, batch_size=4, validation_split=0.3, shuffle=False)
    inputs, targets = loader.dataset.__getitems__([0, 61])
    assert inputs.tolist() == [list(range(8)), list(range(61, 69))]
    assert targets.tolist() == [list(range(1, 9)), list(range(62, 70))]
    assert len(loader.dataset) == 62  # the last block and its target end where the validation begins
    validation = loader.split_validation()
    assert whole(validation)[0].tolist() == [list(range(70 + 8 * i, 78 + 8 * i)) for i in range(3)]
    apart = LanguageModelDataLoader(str(path), 8, 4, stride=8, validation_split=0, shuffle=False)
    assert whole(apart)[0].flatten().tolist() == list(range(96))
    copy = pickle.dumps(loader.dataset)
    assert len(copy) < 500  # workers map the file themselves
    assert pickle.loads(copy)[3][0].tolist() == loader.dataset[3][0].tolist()


def test_blocks_of_a_step_follow_from_seed_and_step(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(256)) * 40)
    loader = LanguageModelDataLoader(str(path), 16, 8)
    loader.configure(seed=3)
    stream = loader.iter_steps(0)
    batches = [next(stream) for _ in range(5)]
    stream.close()
    again = LanguageModelDataLoader(str(path), 16, 8, num_workers=2)
    again.configure(seed=3)
    stream = again.iter_steps(4)
    assert torch.equal(next(stream).data[0], batches[4].data[0])
    stream.close()
    again.close()


def test_wrong_files_for_language_models(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with pytest.raises(DataError, match="there is no file"):
        LanguageModelDataLoader(str(path))
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        LanguageModelDataLoader(str(path))
    path.write_bytes(gzip.compress(b"to be or not to be", mtime=0))
    for loader in (LanguageModelDataLoader, LinesDataLoader):
        with pytest.raises(DataError, match=r"text.txt is packed by gzip; give a file of text"):
            loader(str(path), block_size=4)
    path.write_bytes(b"\n\n")
    with pytest.raises(DataError, match="only empty lines"):
        LinesDataLoader(str(path))
    with pytest.raises(DataError, match="2 bytes are too few for a block of 64"):
        LanguageModelDataLoader(str(path), validation_split=0)
    path.write_bytes(b"a" * 100)
    with pytest.raises(UsageError, match="validation_split is 100; give a fraction"):
        LanguageModelDataLoader(str(path), validation_split=100)
    with pytest.raises(UsageError, match="there is no test data"):
        LanguageModelDataLoader(str(path), training=False)


# --- lines: the loss is a mean over tokens, whose number differs from one micro-batch to the next


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Lines of 1 to 60 bytes, the long ones of other letters."""
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(("ab" * 30 if i % 5 == 0 else "xyz")[: 1 + (i * 17) % 60] for i in range(96)) + "\n\n")
    return path


STEPS, BATCH = 4, 16


def by_line(lines: Path, *more: str) -> list[str]:
    return [
        "arch={type: GPT, args: {layers: 1, heads: 2, width: 8}}",
        f"data_loader={{type: LinesDataLoader, args: {{file: {lines}, block_size: 64, batch_size: {BATCH}}}}}",
        "loss=cross_entropy",
        "metrics=[]",
        "optimizer={type: SGD, args: {lr: 0.5}}",
        f"trainer={{max_steps: {STEPS}, epochs: null, limit_batches: null, log_steps: 1, tensorboard: false}}",
        *more,
    ]


def test_lines(lines: Path) -> None:
    loader = LinesDataLoader(str(lines), 8, 96, shuffle=False)
    inputs, targets = whole(loader)
    assert inputs.shape == targets.shape == (96, 8)
    assert inputs[0].tolist() == [10, ord("a")] + [0] * 6
    assert targets[0].tolist() == [ord("a"), 10] + [-100] * 6


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["data_loader.args.bucket=3"]])
def test_accumulation_and_ranks_agree_with_a_plain_loop_over_tokens(tiny: Tiny, lines: Path, more: list[str]) -> None:
    built = tiny.build(*by_line(lines, *more), run="raw")
    net, data = built.model.train(), built.data_loader.dataset
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    expected, off = [], []
    for step in range(STEPS):
        indices = built.data_loader.indices(step)
        inputs, targets = data.__getitems__(indices)
        value = torch.nn.functional.cross_entropy(net(inputs), targets)
        parts = [data.__getitems__(indices[i::4]) for i in range(4)]
        means = [torch.nn.functional.cross_entropy(net(x), y).item() for x, y in parts]
        off.append(abs(sum(means) / 4 - value.item()))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        expected.append(value.item())
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    for accumulate in (1, 2, 4):
        run = f"{accumulate} micro-batches"
        done = tiny.train(*by_line(lines, *more, f"trainer.accumulate={accumulate}"), run=run)
        for name, value in done.model.state_dict().items():
            np.testing.assert_allclose(value.numpy(), weights[name], rtol=0, atol=1e-6)
        np.testing.assert_allclose([point["loss"] for point in tiny.points("train", run)], expected, rtol=1e-6)
    if not more:
        assert max(off) > 1e-2  # a mean of means is something else
        two = ["trainer.accumulate=2", "trainer.verbosity=0"]
        found = on_ranks(2, trained, by_line(lines, *two))
        assert [type(result) for result in found] == [dict, dict], found
        for result in found:
            for name, value in weights.items():
                np.testing.assert_allclose(result["weights"][name], value, rtol=0, atol=1e-6)


# --- the real reviews


@pytest.mark.slow
@pytest.mark.skipif(not NSMC.exists(), reason=f"needs the film reviews in {NSMC}")
def test_buckets_save_padding_on_nsmc() -> None:
    filled = {}
    for bucket in (0, 50):
        loader = TextTableDataLoader(str(NSMC / "train.tsv"), "document", batch_size=128, bucket=bucket)
        stream = loader.iter_steps(0)
        tokens = [next(stream).data[0] for _ in range(loader.steps_per_epoch)]
        assert len(loader.dataset) == 20_000
        filled[bucket] = sum(int((t > 0).sum()) for t in tokens) / sum(t.numel() for t in tokens)
    assert filled[0] < 0.3
    assert filled[50] > 0.9
