"""Audio: spectrograms that depend on their own clip alone, masks in training, files of every kind, whole runs."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_loader.audio import AudioDataLoader, LogMel, mel_bank, padded, read, resampled
from model.audio import AudioCNN
from tests.data_loader.batches import first
from tests.tiny import Tiny, tiny
from tests.trainer.checkpoint.harness import unequal
from utils.errors import DataError, SampleError, UsageError

__all__ = ["tiny"]

soundfile = pytest.importorskip("soundfile", reason="needs soundfile: make extra NAME=audio")
RATE = 8000
PATTERN = r"(?P<label>\w+)_(?P<speaker>\w+)_(?P<index>\d+)\.wav"


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """48 clips, of two classes by two speakers, 0.1 to 0.3 seconds long."""
    numbers = np.random.default_rng(0)
    for i in range(48):
        name, hertz = ("low", 300) if i % 2 else ("high", 1200)
        wave = tone(hertz * numbers.uniform(0.8, 1.2), numbers.uniform(0.1, 0.3))
        wave += numbers.normal(scale=0.05, size=len(wave))
        soundfile.write(tmp_path / f"{name}_{'ab'[i // 2 % 2]}_{i // 4}.wav", wave, RATE)
    return tmp_path


def clips(folder: Path, **kwargs: Any) -> AudioDataLoader:
    args = {"pattern": PATTERN, "batch_size": 8, "sample_rate": RATE, "n_mels": 20, "test": {"index": [0, 1]}}
    return AudioDataLoader(str(folder), **{**args, **kwargs})


# --- spectrograms


def test_the_mel_of_a_tone() -> None:
    log_mel = LogMel(16000, 40, 0.025, 0.01)
    for hertz in (300, 1000, 5000):
        wave = torch.from_numpy(tone(hertz, 0.5, 16000)).float()
        features, frames = log_mel(wave[None], torch.tensor([8000]))
        assert (features.shape, frames.tolist()) == ((1, 1, 40, 51), [51])
        mel = 2595 * math.log10(1 + hertz / 700)
        band = mel / (2595 * math.log10(1 + 8000 / 700)) * 41 - 1  # 40 centers, evenly spaced in mels
        assert abs(features[0, 0, :, 25].argmax().item() - band) <= 0.6
        assert (features.mean().abs().item(), features.std(correction=0).item()) == pytest.approx((0, 1), abs=1e-5)


def test_the_filters_overlap_to_one() -> None:
    bank = mel_bank(16000, 512, 20)
    assert bank.shape == (20, 257)
    peaks = bank.argmax(dim=1)
    assert (peaks.diff() > 0).all()
    assert torch.allclose(bank[:, peaks[0] + 1 : peaks[-1]].sum(dim=0), torch.ones(1), atol=1e-6)
    assert (bank[:, 0].max().item(), bank[:, -1].max().item()) == pytest.approx((0, 0), abs=1e-6)


def test_a_clip_does_not_depend_on_its_batch() -> None:
    """Neither its spectrogram nor the model's output: what is padded changes nothing."""
    torch.manual_seed(0)
    log_mel, model = LogMel(RATE, 20, 0.025, 0.01), AudioCNN(3, 20, (8, 16, 16)).eval()
    waves = [torch.randn(n) for n in (700, 1999, 80, 2400, 1)]
    nothing = torch.zeros(0, 4)
    (batch, lengths, _), _ = padded([((wave, nothing), 0) for wave in waves])
    features, frames = log_mel(batch, lengths)
    together = model((features, frames))
    for i, wave in enumerate(waves):
        alone, n = log_mel(wave[None], torch.tensor([len(wave)]))
        assert n == frames[i] == alone.shape[3]
        torch.testing.assert_close(features[i, :, :, :n], alone[0], rtol=0, atol=1e-5)
        assert not features[i, :, :, n:].any()
        torch.testing.assert_close(together[i], model((alone, n))[0], rtol=0, atol=1e-5)


def test_silence_is_finite() -> None:
    features, _ = LogMel(RATE, 20, 0.025, 0.01)(torch.zeros(1, 500), torch.tensor([500]))
    assert features.abs().max() < 0.01


def test_bad_frames() -> None:
    with pytest.raises(UsageError, match=r"\d+ of 128 mel bands hold no frequency .* lower n_mels, or give a longer"):
        LogMel(RATE, 128, 0.01, 0.01)
    with pytest.raises(UsageError, match=r"window is 0\.01 and hop is 0\.02; give seconds"):
        LogMel(RATE, 20, 0.01, 0.02)


# --- masks


def test_masks_are_of_the_sample_and_in_training_only(tones: Path) -> None:
    """The same for any batch size and number of workers; others in the next epoch; none in validation and testing."""
    seen = {}
    for batch_size, count in ((8, 0), (8, 2), (4, 0)):
        loader = clips(tones, masks=1, batch_size=batch_size, num_workers=count, validation_split=8)
        steps = loader.iter_steps(0)
        batches = [next(steps) for _ in range(2 * loader.steps_per_epoch)]
        steps.close()
        found: dict[int, list[torch.Tensor]] = {}
        for batch in batches:
            (features, frames), _ = batch.data
            for index, clip, n in zip(batch.indices.tolist(), features, frames.tolist(), strict=True):
                found.setdefault(index, []).append(clip[0, :, :n] == 0)
        seen[batch_size, count] = found
    one = seen[8, 0]
    assert len(one) == 32
    assert all(torch.equal(a, b) for other in seen.values() for i in one for a, b in zip(one[i], other[i], strict=True))
    assert sum(not torch.equal(first, second) for first, second in one.values()) > 25
    parts = [mask.float().mean().item() for pair in one.values() for mask in pair]
    assert 0.1 < np.mean(parts) < 0.5
    for masks in one.values():
        rows, columns = masks[0].all(dim=1), masks[0].all(dim=0)
        assert torch.equal(masks[0], rows[:, None] | columns)  # whole bands and whole times
        assert rows.sum() <= 9
        assert columns.sum() <= len(columns) / 5 + 1
    validation = loader.split_validation()
    assert validation is not None
    plain = [*validation, *clips(tones, masks=1, training=False)]
    assert all(((f[:, 0] == 0).all(dim=1).sum(dim=1) == f.shape[3] - n).all() for (f, n), _ in plain)


def test_long_clips_are_cut(tmp_path: Path) -> None:
    for name in ("x", "y"):
        soundfile.write(tmp_path / f"{name}_a_0.wav", np.arange(8000) / 8000, RATE)
    loader = clips(tmp_path, test={}, max_seconds=0.5, batch_size=2)
    (plain, _), _ = loader.eval_dataset[0]
    assert (len(plain), plain[0].item()) == (4000, 0.25)
    torch.manual_seed(0)
    starts = {round(loader.dataset[0][0][0][0].item(), 4) for _ in range(5)}  # type: ignore[index]
    assert len(starts) == 5
    assert all(0 <= start <= 0.5 for start in starts)


# --- files


@pytest.mark.parametrize("rate", [4000, 11025, 44100])
def test_another_rate(rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 0.5, rate), rate, subtype="FLOAT")
    wave, expected = read(str(tmp_path / "a.wav"), RATE), torch.from_numpy(tone(440, 0.5)).float()
    assert abs(len(wave) - 4000) <= 1
    torch.testing.assert_close(wave[200:3800], expected[200:3800], rtol=0, atol=0.01)
    high = resampled(torch.from_numpy(tone(6000, 0.5, 16000)).float(), 16000, RATE)  # above half the new rate
    assert high[200:3800].abs().max() < 0.01


@pytest.mark.parametrize("kind", ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "FLAC", "stereo"])
def test_every_kind_of_file(kind: str, tmp_path: Path) -> None:
    wave, path = tone(440, 0.1), str(tmp_path / ("a.flac" if kind == "FLAC" else "a.wav"))
    if kind == "stereo":
        soundfile.write(path, np.stack([2 * wave, np.zeros(800)], axis=1), RATE)
    else:
        soundfile.write(path, wave, RATE, subtype=None if kind == "FLAC" else kind)
    torch.testing.assert_close(read(path, RATE), torch.from_numpy(wave).float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "content, words",
    [
        (np.zeros(0), "high_a_0.wav) could not be read: ValueError: it has no samples"),
        (
            np.array([0.1, 1e30]),
            "high_a_0.wav) could not be read: ValueError: it has samples that are infinite or",
        ),
        (np.array([0.1, np.nan]), "high_a_0.wav) could not be read: ValueError: it has samples that are infinite or"),
        (b"RIFF and no more", "high_a_0.wav) could not be read: LibsndfileError: "),
        (b"", "high_a_0.wav) could not be read: LibsndfileError: "),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content: Any, words: str, tones: Path) -> None:
    path = tones / "high_a_0.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        soundfile.write(path, content, RATE, subtype="FLOAT")
    with pytest.raises(SampleError) as error:
        list(clips(tones, test={}))
    assert words in str(error.value)


def test_files_by_name(tones: Path) -> None:
    loader = clips(tones)
    assert len(loader.dataset) == 40
    assert loader.facts == {"num_classes": 2, "class_names": ["high", "low"], "class_counts": [20, 20]}
    assert len(clips(tones, training=False).dataset) == 8
    theirs = clips(tones, training=False, test={"speaker": ["a"]})
    assert set(theirs.dataset.column("speaker").tolist()) == {"a"}  # type: ignore[attr-defined]
    assert len(theirs.dataset) == 24
    by_speaker = clips(tones, group="speaker", validation_split=0.5)
    validation = by_speaker.split_validation()
    assert validation is not None
    speakers = by_speaker.dataset.column("speaker")  # type: ignore[attr-defined]
    held_out = speakers[validation.samples(np.arange(len(validation.samples)))]
    assert len(set(held_out)) == 1


def test_other_files_are_found_and_hidden_ones_are_not(tones: Path) -> None:
    for name in ("low_a_90.ogg", "high_a_90.mp3", "low_a_91.aiff"):
        soundfile.write(tones / name, tone(400, 0.2), RATE)
    (tones / "._low_a_92.wav").write_bytes(b"no audio")
    loader = clips(tones, test={}, pattern=PATTERN.replace("wav", r"\w+"), batch_size=51)
    assert len(loader.dataset) == 51
    assert first(loader)[0][0].isfinite().all()


def test_class_folders(tones: Path, tmp_path: Path) -> None:
    for part, start in (("train", 0), ("test", 3)):
        for name in ("high", "low"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(3):
                (tones / f"{name}_a_{start + i}.wav").rename(tmp_path / part / name / f"{i}.WAV")
    loader = AudioDataLoader(str(tmp_path), 2, sample_rate=RATE, n_mels=20)
    assert (len(loader.dataset), loader.facts["class_names"]) == (6, ["high", "low"])
    test = AudioDataLoader(str(tmp_path), training=False, sample_rate=RATE, n_mels=20, facts=loader.facts)
    assert [Path(path).parts[-3:-1] for path, _ in test.dataset.samples[:3]] == [("test", "high")] * 3  # type: ignore[attr-defined]
    (tmp_path / "test/new").mkdir()
    (tmp_path / "test/high/0.WAV").rename(tmp_path / "test/new/0.wav")
    with pytest.raises(DataError, match=r"0.wav: the class 'new' is in no training sample.* high, low"):
        AudioDataLoader(str(tmp_path), training=False, facts=loader.facts)


def test_a_table_of_files(tones: Path) -> None:
    rows = "file,label,room\nhigh_a_0.wav,hi,1\nlow_a_0.wav,lo,1\nlow_a_1.wav,lo,2\n"
    table = tones / "t.csv"
    table.write_text(rows)
    loader = clips(tones, table=str(table), test={"room": [2]}, batch_size=2)
    assert loader.facts == {"num_classes": 2, "class_names": ["hi", "lo"], "class_counts": [1, 1]}
    for text, words in (
        (rows.replace("label", "class"), "t.csv has no column 'label'.*; it has file, class, room"),
        (rows.replace("low_a_0", "nowhere"), r"t.csv, row 3: there is no file .*nowhere.wav"),
        (rows.replace("lo,2", ",2"), r"t.csv, row 4: the column 'label' is empty; fill it in"),
        (rows.replace("lo,2", "lo,"), r"t.csv, row 4: the column 'room' is empty; fill it in"),
        (rows + "low_a_1.wav\n", r"t.csv, row 5: 1 fields, fewer than the 3 of the header"),
        ("file,label\n", "t.csv has no rows; it needs a header"),
        (rows.replace(",hi", ",한").encode("cp949"), "t.csv, line 2: the byte 0xc7 is not utf-8; .* encoding: cp949"),
    ):
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError, match=words):
            clips(tones, table=str(table), test={"room": [2]})
    table.write_text(
        rows.replace(",", " , ").replace("\n", " \n") + ",,\n"
    )  # spaces and an empty row of a table program
    spaced = clips(tones, table=str(table), test={"room": [2]}, batch_size=2)
    assert (spaced.facts, len(spaced.dataset)) == (loader.facts, 2)  # type: ignore[arg-type]
    rows = rows.replace(",hi", ",한").replace("1\n", "\n")  # no room
    for encoding in ("cp949", "utf-16"):
        table.write_text(rows, encoding=encoding)
        options = {"encoding": "cp949"} if encoding == "cp949" else {}
        assert clips(tones, table="t.csv", test={}, batch_size=2, **options).facts["class_names"] == ["lo", "한"]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"pattern": "(?P<label>"}, "pattern is not a regular expression: missing"),
        ({"pattern": r"(\w+)_a"}, r"pattern has no group label, \(\?P<label>...\), that gives the class"),
        ({"pattern": "(?P<label>x)/"}, r"pattern is found in none of the 48 files below .*, such as high_a_0.wav"),
        ({"test": {"room": [1]}}, "test names 'room', but the files have only label, speaker, index, file"),
        ({"test": {"index": [99]}, "training": False}, "none of the 48 files is for testing; test says which"),
        ({"test": {"speaker": ["a", "b"]}}, "none of the 48 files is for training"),
        ({"test": {}, "pattern": "(?P<label>high)"}, "all training samples are of one class, 'high'"),
        ({"n_mels": 0}, "n_mels is 0; give 1 or more"),
        ({"masks": -1}, "masks is -1; give 0 or more"),
        ({"max_seconds": 0.0}, "max_seconds is 0.0; give 0.025 or more"),
        ({"table": "nowhere.csv"}, "there is no file .*nowhere.csv; give a table"),
    ],
)
def test_one_clear_line(options: dict[str, Any], words: str, tones: Path) -> None:
    with pytest.raises(UsageError, match=words) as error:
        clips(tones, **options)
    assert error.value.exit_code == 2


def test_no_files_and_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"There are no audio files .* below .*; set data_loader.args.data_dir"):
            clips(folder)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UsageError, match="read by soundfile, which is not installed: make extra NAME=audio"):
        clips(tmp_path)


# --- whole runs


def config(folder: Path, **args: Any) -> list[str]:
    args = {"data_dir": folder, "pattern": "'(?P<label>[a-z]+)_(?P<speaker>[a-z])_(?P<index>[0-9]+)'",
            "test": "{index: [0, 1]}", "sample_rate": RATE, "n_mels": 20, "masks": 1,
            "batch_size": 8} | args  # fmt: skip
    loader = ", ".join(f"{name}: {value}" for name, value in args.items())
    return [f"data_loader={{type: AudioDataLoader, args: {{{loader}}}}}", "trainer.limit_batches=null",
            "arch={type: AudioCNN, args: {n_mels: 20, widths: [8, 8], dropout: 0.1}}",
            "optimizer={type: AdamW, args: {lr: 0.01}}"]  # fmt: skip


def test_stop_and_resume_are_bit_equal_and_it_learns(tiny: Tiny, tones: Path) -> None:
    options = config(tones, validation_split=8)
    tiny.train(*options, "trainer.epochs=3", run="whole")
    tiny.train(*options, "trainer.epochs=1", run="cut")
    tiny.train(*options, "trainer.epochs=3", run="cut", checkpoint="checkpoint-step4.pth")
    one, two = (tiny.load("checkpoint-step12.pth", run) for run in ("whole", "cut"))
    assert not list(unequal(one["model"], two["model"])) + list(unequal(one["optimizer"], two["optimizer"]))
    assert tiny.points("valid", "whole") == tiny.points("valid", "cut")
    assert tiny.points("valid", "whole")[-1]["accuracy"] == 1


def test_workers_and_micro_batches_change_nothing(tiny: Tiny, tones: Path) -> None:
    loaders = [clips(tones, num_workers=count, masks=2) for count in (0, 2)]
    (one, two) = (first(loader, 3) for loader in loaders)
    assert all(torch.equal(a, b) for a, b in zip([*one[0], one[1]], [*two[0], two[1]], strict=True))
    options = [*config(tones), "arch.args.dropout=0", "optimizer={type: SGD, args: {lr: 0.1}}", "trainer.epochs=1"]
    whole = tiny.train(*options, run="one").model.state_dict()
    halves = tiny.train(*options, "trainer.accumulate=2", run="two").model.state_dict()
    for name in whole:
        torch.testing.assert_close(whole[name], halves[name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_spoken_digits(tiny: Tiny, tmp_path: Path) -> None:
    """Two of the six speakers, a few epochs: most digits are understood."""
    import zipfile

    archive = Path(__file__).resolve().parents[3] / "shared/data/spoken_digits.zip"
    if not archive.exists():
        pytest.skip("needs ../shared/data/spoken_digits.zip (Free Spoken Digit Dataset)")
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path, [name for name in file.namelist() if "_jackson_" in name or "_theo_" in name])
    pattern = "'(?P<label>[0-9])_(?P<speaker>[a-z]+)_(?P<index>[0-9]+)'"
    options = config(tmp_path, pattern=pattern, test="{index: [0, 1, 2, 3, 4]}", batch_size=32, validation_split=100)
    tiny.train(*options, "arch.args.widths=[16, 32, 32]", "trainer.epochs=6", "optimizer.args.lr=0.003",
               "lr_scheduler=WarmupCosineLR")  # fmt: skip
    assert tiny.points("valid")[-1]["accuracy"] > 0.9
