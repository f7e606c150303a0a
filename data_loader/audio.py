"""Audio: WAV, FLAC, MP3 and the like, of any length, as log-mel spectrograms.

The library soundfile reads them: make extra NAME=audio. Files are read as waveforms; the spectrograms of a batch are
computed at once, on the run's device.
"""

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.facts import class_facts
from data_loader.engine.learned import class_numbers, coded, learn_classes, learned_before
from data_loader.engine.paths import files_below, place
from data_loader.engine.texts.plain_text import no_column, read_csv
from data_loader.engine.unlabeled import unlabeled_files
from utils.errors import DataError, UsageError

SUFFIXES = (".aif", ".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav")
FOLDERS = r"(?P<part>train|test)/(?P<label>[^/]+)/"
DRAWS = 4  # numbers in [0, 1) that a pair of masks is made of
LOUDEST = 1e12  # whose squares still add up; samples of integers are divided by the largest one


class AudioDataLoader(BaseDataLoader):
    """Audio files: inputs (log-mel spectrograms float32 [B, 1, n_mels, T], numbers of frames [B]), classes [B].

    T is that of the longest clip of the batch; the others are followed by zeros. Each clip is normalized by its own
    mean and standard deviation. Several channels are averaged, another sample rate is resampled.

    pattern: a regular expression with the group `label`, searched in the path of each file below data_dir; files that
        do not have it are left out. Its other groups are columns for `test`, `group` and `stratify`. By default, the
        files are data_dir/train/CLASS/*.wav and data_dir/test/CLASS/*.wav.
    table, encoding: a CSV file instead, with the columns `file` (a path below data_dir), `label`, and any others.
    test: which files are for testing: columns, and their values: {part: [test]}. The others are to train and validate.
    max_seconds: longer clips are cut: in training at a random place, in evaluation from the middle.
    hop, window: step and length of the frames, in seconds.
    masks: pairs of a masked band of up to `mask_mels` mels and a masked time of up to `mask_seconds`, in training.
    facts: those of the training data, whose classes count.
    predict: clips without classes, for predict.py: files, folders, or a CSV file of file names.
    """

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 32,
        training: bool = True,
        pattern: str = FOLDERS,
        table: str | None = None,
        encoding: str = "utf-8",
        test: dict[str, list[str | int]] | None = None,
        sample_rate: int = 16000,
        max_seconds: float = 10.0,
        n_mels: int = 64,
        window: float = 0.025,
        hop: float = 0.01,
        masks: int = 0,
        mask_mels: int = 8,
        mask_seconds: float = 0.1,
        facts: dict[str, Any] | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        _soundfile()
        at_least = {"sample_rate": (sample_rate, 1), "n_mels": (n_mels, 1), "masks": (masks, 0)}
        for name, (given, least) in {**at_least, "max_seconds": (max_seconds, window)}.items():
            if given < least:
                raise UsageError(f"data_loader: {name} is {given}; give {least} or more")
        if predict is not None:
            learned = learned_before(facts, "class_names", training)
            self.unlabeled = unlabeled_files(predict, SUFFIXES, folder=place(data_dir))
            files = [{"file": path, "label": learned[0]} for path in self.unlabeled.paths]
        else:
            folder = place(data_dir)
            found = (
                _in_table(place(table), folder, encoding, test or ["part"]) if table else _in_folder(folder, pattern)
            )
            files = _part(found, test, training)
            learned = (facts or {}).get("class_names")
            if learned is None:
                names, codes = coded([file["label"] for file in _part(found, test, training=True)])
                learned = learn_classes(names, codes, np.arange(len(codes)), str(data_dir))
        classes = [str(name) for name in learned]
        plain = Clips(files, classes, sample_rate, max_seconds)
        dataset = Clips(files, classes, sample_rate, max_seconds, True, masks) if training else plain
        log_mel = LogMel(sample_rate, n_mels, window, hop)
        time = mask_seconds / hop

        def batch_transform(
            batch: tuple[tuple[Tensor, Tensor, Tensor], Tensor],
        ) -> tuple[tuple[Tensor, Tensor], Tensor]:
            (waves, lengths, draws), labels = batch
            features, frames = log_mel(waves, lengths)
            return (masked(features, frames, draws, mask_mels, time), frames), labels

        self.facts = class_facts(classes)
        super().__init__(
            dataset, batch_size, eval_dataset=plain, collate_fn=padded, batch_transform=batch_transform, **kwargs
        )


class Clips(Dataset):
    """Each file as ((waveform float32 [L], numbers for its masks [masks, DRAWS]), class)."""

    def __init__(
        self,
        files: list[dict[str, str]],
        classes: list[str],
        sample_rate: int,
        max_seconds: float,
        augment: bool = False,
        masks: int = 0,
    ):
        names, codes = coded([file["label"] for file in files])
        self.labels = class_numbers(names, codes, classes, lambda index: files[index]["file"]).astype(np.int64)
        self.files, self.sample_rate, self.augment, self.masks = files, sample_rate, augment, masks
        self.longest = max(1, round(max_seconds * sample_rate))
        self.samples = [(file["file"], label) for file, label in zip(files, self.labels.tolist(), strict=True)]

    def column(self, name: str) -> np.ndarray:
        """A column of the table, or a group of the pattern, for each file: [N]. KeyError: there is none."""
        return np.array([file[name] for file in self.files])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], int]:
        path, label = self.samples[index]
        wave = read(path, self.sample_rate)
        if len(wave) > self.longest:
            free = len(wave) - self.longest
            start = int(torch.randint(free + 1, ())) if self.augment else free // 2
            wave = wave[start : start + self.longest]
        return (wave, torch.rand(self.masks, DRAWS)), label


def padded(samples: list[tuple[tuple[Tensor, Tensor], int]]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Clips of any length as ((waveforms [B, longest], lengths [B], draws [B, masks, DRAWS]), classes [B])."""
    clips, labels = zip(*samples, strict=True)
    waves, draws = zip(*clips, strict=True)
    lengths = torch.tensor([len(wave) for wave in waves])
    return (torch.nn.utils.rnn.pad_sequence(list(waves), batch_first=True), lengths, torch.stack(draws)), torch.tensor(
        labels
    )


# --- reading files


def read(path: str, sample_rate: int) -> Tensor:
    """A file's waveform at this rate, the mean of its channels: float32 [L]. ValueError: it has no samples."""
    samples, rate = _soundfile().read(path, dtype="float32", always_2d=True)
    if not len(samples):
        raise ValueError("it has no samples: it is cut off, or nothing was recorded")
    wave = torch.from_numpy(samples).mean(dim=1)
    if not wave.abs().max() < LOUDEST:  # nor NaN
        raise ValueError("it has samples that are infinite or not a number, or far too large")
    return wave if rate == sample_rate else resampled(wave, rate, sample_rate)


def resampled(wave: Tensor, rate: int, new_rate: int) -> Tensor:
    """A waveform [L] at another rate, in the frequency domain, without the frequencies above its Nyquist limit.

    The transform takes a clip as repeated: followed by its mirror image, its end does not ring at its start.
    """
    common = math.gcd(rate, new_rate)
    blocks = -(-len(wave) * common // rate)  # of samples that are a whole number at either rate
    longer = torch.cat([wave, wave[-1:].expand(blocks * (rate // common) - len(wave))])
    spectrum = torch.fft.rfft(torch.cat([longer, longer.flip(0)]).double())
    n = blocks * (new_rate // common)
    whole = torch.fft.irfft(spectrum[: n + 1] * (n / len(longer)), n=2 * n)
    return whole[: math.ceil(len(wave) * new_rate / rate)].float()


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as e:
        raise UsageError(
            "data_loader: audio files are read by soundfile, which is not installed: make extra NAME=audio installs it"
        ) from e
    return soundfile


def _in_folder(folder: Path, pattern: str) -> list[dict[str, str]]:
    """`file`, `label` and the other groups of the pattern for each file below the folder, sorted by path."""
    try:
        search = re.compile(pattern)
    except re.error as e:
        raise UsageError(f"data_loader: pattern is not a regular expression: {e}: {pattern}") from e
    if "label" not in search.groupindex:
        raise UsageError(f"data_loader: pattern has no group label, (?P<label>...), that gives the class: {pattern}")
    paths = [Path(path) for path in files_below(folder, SUFFIXES)] if folder.is_dir() else []
    if not paths:
        raise DataError(
            f"There are no audio files ({', '.join(SUFFIXES)}) below {folder.resolve()}; set data_loader.args.data_dir "
            f"to their folder; convert others (.m4a, say) to one of these"
        )
    found = [(path, search.search(path.relative_to(folder).as_posix())) for path in paths]
    files = [{**match.groupdict(""), "file": str(path)} for path, match in found if match]
    if not files:
        raise DataError(
            f"pattern is found in none of the {len(paths):,} files below {folder.resolve()}, such as "
            f"{paths[0].relative_to(folder).as_posix()}: {pattern}"
            + ("; for class folders without train/ and test/, pattern: (?P<label>[^/]+)/" if pattern == FOLDERS else "")
        )
    return files


def _in_table(table: Path, folder: Path, encoding: str, test: Collection[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, their paths below the folder. test: the columns that say what is for testing."""
    found = read_csv(table if table.is_file() else folder / table, encoding)
    for name in ("file", "label"):
        if name not in found.columns:
            raise no_column(str(table), name, list(found.columns))
    columns = [[value.strip() for value in values] for values in found.columns.values()]
    rows = list[dict[str, str]]()
    for number, values in zip(found.rows, zip(*columns, strict=True), strict=True):
        if not any(values):  # table programs leave such rows at the end
            continue
        row = dict(zip(found.columns, values, strict=True))
        if empty := next((name for name in ("label", *test) if not row.get(name, "-")), None):
            raise DataError(f"{table}, row {number}: the column '{empty}' is empty; fill it in, or remove the row")
        row["file"] = str(folder / row["file"])
        rows.append(row)
        if not Path(row["file"]).is_file():
            raise DataError(f"{table}, row {number}: there is no file {row['file']}; correct it, or set data_dir")
    return rows


def _part(
    files: list[dict[str, str]], test: Mapping[str, list[str | int]] | None, training: bool
) -> list[dict[str, str]]:
    """The files for testing, whose columns match all values of `test`; else those for training."""
    if test is None:
        test = {"part": ["test"]} if "part" in files[0] else {}
    for name in test:
        if name not in files[0]:
            raise UsageError(f"data_loader: test names '{name}', but the files have only {', '.join(files[0])}")
    chosen = {name: {str(value) for value in values} for name, values in test.items()}
    part = [file for file in files if training != (bool(test) and all(file[n] in v for n, v in chosen.items()))]
    if not part:
        raise DataError(
            f"data_loader: none of the {len(files):,} files is for {'training' if training else 'testing'}; test says "
            f"which are for testing, as {{column: [values]}}: it is {dict(test)}, the columns are {', '.join(files[0])}"
        )
    return part


# --- spectrograms


class LogMel:
    """waveforms [B, L], lengths [B] -> log-mel spectrograms [B, 1, n_mels, T], numbers of frames [B].

    Padding after the end of a clip does not change it, so it does not depend on the other clips of its batch.
    """

    changes_by_itself = ("window", "bank")  # they move to the device of the first batch

    def __init__(self, sample_rate: int, n_mels: int, window: float, hop: float):
        self.length, self.hop = round(window * sample_rate), round(hop * sample_rate)
        if self.hop < 1 or self.length < self.hop:
            raise UsageError(f"data_loader: window is {window} and hop is {hop}; give seconds, and window at least hop")
        self.n_fft = 2 ** (self.length - 1).bit_length()
        self.window = torch.hann_window(self.length)
        self.bank = mel_bank(sample_rate, self.n_fft, n_mels)
        if empty := int((self.bank.sum(dim=1) == 0).sum()):
            raise UsageError(
                f"data_loader: {empty} of {n_mels} mel bands hold no frequency of a window of {window} seconds; lower "
                f"n_mels, or give a longer window"
            )

    def __call__(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if self.window.device != waves.device:
            self.window, self.bank = self.window.to(waves.device), self.bank.to(waves.device)
        spectra = torch.stft(
            waves, self.n_fft, self.hop, self.length, self.window, pad_mode="constant", return_complex=True
        )
        features = (self.bank @ spectra.abs().square() + 1e-6).log()  # [B, n_mels, T]
        frames = lengths // self.hop + 1
        valid = (torch.arange(features.shape[2], device=waves.device) < frames[:, None])[:, None]
        count = frames[:, None, None] * features.shape[1]
        centered = features - (features * valid).sum(dim=(1, 2), keepdim=True) / count
        deviation = ((centered * valid).square().sum(dim=(1, 2), keepdim=True) / count).sqrt()
        return (centered / deviation.clamp(min=1e-3) * valid)[:, None], frames


def mel_bank(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangular filters of equal width in mels over 0 ... sample_rate / 2: [n_mels, n_fft // 2 + 1].

    mel(f) = 2595 log10(1 + f / 700): O'Shaughnessy, Speech Communication, 1987; the filters are those of the HTK Book
    (Young et al., section 5.4).
    """
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, n_mels + 2, dtype=torch.float64) / 2595) - 1)  # Hz
    frequencies = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    left, center, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - left) / (center - left), (right - frequencies) / (right - center)
    return torch.minimum(rising, falling).clamp(min=0).float()


def masked(features: Tensor, frames: Tensor, draws: Tensor, most_mels: float, most_frames: float) -> Tensor:
    """SpecAugment without warping (Park et al., 2019): each of draws [B, masks, DRAWS] sets a band of up to most_mels
    and a time of up to most_frames, though at most a fifth of the clip, to 0, which is the mean."""
    mels, times = (torch.arange(size, device=features.device) for size in features.shape[2:])
    for size, start, time_size, time_start in draws.permute(1, 2, 0)[..., None]:  # each [B, 1]
        size = size * most_mels
        start = start * (features.shape[2] - size)
        in_band = (mels >= start) & (mels < start + size)
        time_size = time_size * (frames[:, None] / 5).clamp(max=most_frames)
        time_start = time_start * (frames[:, None] - time_size)
        in_time = (times >= time_start) & (times < time_start + time_size)
        features = features.masked_fill(in_band[:, None, :, None] | in_time[:, None, None, :], 0.0)
    return features
