"""Rows of recordings."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import soundfile
from corpus import Fault, Read

RATE = 8000


def tone(seconds: float = 0.3, pitch: float = 500.0, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def _write(folder: Path, count: int, ending: str, sound: np.ndarray | None = None, rate: int = RATE) -> None:
    for i in range(count):
        soundfile.write(folder / f"{ending}{i:02}.{ending}", tone(pitch=300 + 40 * i) if sound is None else sound, rate)


def _formats(folder: Path) -> None:
    for count, ending in ((20, "mp3"), (5, "aiff"), (5, "wav")):
        _write(folder, count, ending)
    (folder / "notes.txt").write_text("not a recording")


def _all_formats(read: Read) -> None:
    assert read.sizes == {"train": 24, "test": 6}
    assert read.train.summary.files == {".mp3": 20, ".aiff": 5, ".wav": 5}
    assert all(np.abs(x["waveform"]).max() > 0.3 for x in read.samples())


def _mp3_alone(folder: Path) -> None:
    _write(folder, 10, "mp3")


def _ten_with_sound(read: Read) -> None:
    assert read.sizes == {"train": 8, "test": 2}
    assert all(np.abs(x["waveform"]).max() > 0.2 for x in read.samples())
    assert all(np.ptp(prepared["spectrogram"]) > 20 for prepared in read.prepared())


def _mixed_endings(folder: Path) -> None:
    for i, ending in enumerate(("au", "caf", "w64", "opus", "oga", "AIF", "wave", "rf64", "snd", "voc")):
        name = folder / f"x.{ending}"
        kinds = {"opus": ("OGG", "OPUS"), "oga": ("OGG", "VORBIS"), "AIF": ("AIFF", None), "wave": ("WAV", None)}
        kind, subtype = kinds.get(ending, ({"snd": "AU"}.get(ending, ending.upper()), None))
        soundfile.write(name, tone(pitch=300 + 40 * i), RATE, format=kind, subtype=subtype)


def _wrong_ending(folder: Path) -> None:
    """The content counts: flac called wav, and mp3 called ogg."""
    for i in range(5):
        soundfile.write(folder / f"{i}.wav", tone(pitch=300 + 40 * i), RATE, format="FLAC")
        soundfile.write(folder / f"{i}.ogg", tone(pitch=300 + 40 * i), RATE, format="MP3")


def _silent_left(folder: Path) -> None:
    _write(folder, 10, "wav", np.stack([0 * tone(), tone()], axis=1))


def _opposite_phase(folder: Path) -> None:
    """The mean of both channels is silence."""
    _write(folder, 10, "wav", np.stack([tone(), -tone()], axis=1))


def _some_silent(folder: Path) -> None:
    _write(folder, 8, "wav")
    for name in ("quiet0.wav", "quiet1.wav"):
        soundfile.write(folder / name, 0 * tone(), RATE)


def _silent_are_skipped(read: Read) -> None:
    messages = read.bad("train") + read.bad("test")
    assert len(messages) == 2
    assert all("quiet" in message and "silent throughout" in message for message in messages)


def _late_sound(folder: Path) -> None:
    _write(folder, 10, "wav", np.concatenate([np.zeros(round(1.5 * RATE)), tone(0.5)]))


def _is_trimmed(read: Read) -> None:
    assert all(0.45 < x["waveform"].shape[1] / RATE < 0.6 for x in read.samples())
    _ten_with_sound(read)


def _late_sound_with_noise(folder: Path) -> None:
    """Noise 70 dB below the sound is silence too."""
    random = np.random.RandomState(0)
    quiet = 1e-4 * random.standard_normal(round(1.2 * RATE))
    _write(folder, 10, "wav", np.concatenate([quiet, tone(1.0)]))


def _long(folder: Path) -> None:
    for i in range(4):
        soundfile.write(folder / f"{i}.wav", tone(60, 200 + 50 * i, 1000), 1000)


def _windows(read: Read) -> None:
    assert read.sizes == {"train": 180, "test": 60}
    assert read.array("waveform").shape == (180, 1, 1000)
    files = [{read.datasets[split].describe(i).split(" from ")[0] for i in range(60)} for split in ("train", "test")]
    assert files[0].isdisjoint(files[1])
    assert read.train.describe(1).endswith(" from 1 to 2 s")


def _one_long(folder: Path) -> Path:
    soundfile.write(folder / "a.wav", tone(20, 300, 1000), 1000)
    soundfile.write(folder / "b.wav", tone(0.5, 300, 1000), 1000)
    return folder


def _end_is_test(read: Read) -> None:
    assert read.sizes == {"train": 16, "test": 4}
    assert read.datasets["test"].describe(0).endswith(" from 16 to 17 s")


def _cut_in_half(folder: Path) -> None:
    _write(folder, 10, "wav")
    for name in ("wav03.wav", "wav07.wav"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])


def _two_bad(read: Read) -> None:
    """Bad samples are counted, and --strict refuses them."""
    messages = read.bad("train") + read.bad("test")
    assert len(messages) == 2
    assert all("ends after 0.14" in m and "dataset.truncated=use" in m for m in messages), messages


def _halves_are_used(read: Read) -> None:
    assert read.bad("train") + read.bad("test") == []
    assert sorted({x["waveform"].shape[1] for split in ("train", "test") for x in read.samples(split)})[0] < 1300


def _cut_aiff_and_mp3(folder: Path) -> None:
    for ending in ("aiff", "au", "mp3"):
        _write(folder, 4, ending)
        path = folder / f"{ending}02.{ending}"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _three_bad(read: Read) -> None:
    messages = read.bad("train") + read.bad("test")
    assert len(messages) == 3
    assert all("its header promises" in message for message in messages), messages


def _streamed(folder: Path) -> None:
    """A recorder that writes to a pipe does not know the length: its header promises the largest number."""
    _write(folder, 10, "wav")
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
        path.write_bytes(bytes(content))


def _name_without_utf8(folder: Path) -> None:
    _write(folder, 9, "wav")
    (folder / "wav00.wav").rename(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")))


def _eight(read: Read) -> None:
    assert sum(read.sizes.values()) == 8
    assert read.bad("train") + read.bad("test") == []


def _endless_flac(folder: Path) -> None:
    """The header promises 2^36 - 1 samples."""
    _write(folder, 10, "flac")
    path = folder / "flac04.flac"
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(content))


def _one_bad(read: Read) -> None:
    messages = read.bad("train") + read.bad("test")
    assert len(messages) == 1
    assert "flac04" in messages[0]


def _m4a(folder: Path, count: int = 10) -> None:
    """Written by FFmpeg where it is installed, else a file that begins like one."""
    for i in range(count):
        path = folder / f"voice{i}.m4a"
        try:
            import av
        except ImportError:
            path.write_bytes(bytes(4) + b"ftypM4A " + bytes(100))
            continue
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone().astype(np.float32)[np.newaxis], format="fltp", layout="mono")
            frame.sample_rate = RATE
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)


def _m4a_and_wav(folder: Path) -> None:
    _m4a(folder, 4)
    _write(folder, 10, "wav")


def _wav_alone(read: Read) -> None:
    assert sum(read.sizes.values()) == 10
    assert read.train.summary.files == {".wav": 10}


def _fourteen(read: Read) -> None:
    assert sum(read.sizes.values()) == 14
    assert read.bad("train") + read.bad("test") == []


def _m4a_called_wav(folder: Path) -> None:
    _write(folder, 9, "wav")
    _m4a(folder, 1)
    (folder / "voice0.m4a").rename(folder / "voice0.wav")


def _extra_is_named(read: Read) -> None:
    (message,) = read.bad("train") + read.bad("test")
    assert "pip install 'sslx[audio]'" in message


def _unknown_ending(folder: Path) -> None:
    for i in range(10):
        soundfile.write(folder / f"{i}.xyz", tone(), RATE, format="WAV")


def _one_file(folder: Path) -> Path:
    soundfile.write(folder / "a.mp3", tone(20, 300), RATE)
    return folder / "a.mp3"


def _listed(folder: Path) -> Path:
    """A table of recordings in several formats, cut into windows."""
    _write(folder, 3, "mp3", tone(4))
    _write(folder, 3, "wav", tone(4))
    names = sorted(path.name for path in folder.iterdir())
    lines = [f"{name},{'ab'[i % 2]},s{i}" for i, name in enumerate(names)]
    (folder / "x.csv").write_text("\n".join(["path,label,group", *lines]))
    return folder / "x.csv"


def _groups_stay_together(read: Read) -> None:
    assert read.train.task.names == ("a", "b")
    files = [
        {name.split(" from ")[0] for name in map(data.describe, range(len(data)))} for data in read.datasets.values()
    ]
    assert files[0].isdisjoint(files[1])
    assert sum(read.sizes.values()) == 24


FFMPEG = importlib.util.find_spec("av") is not None
NEEDS = r"\.m4a.*pip install 'sslx\[audio\]'"


def _only_training(read: Read) -> None:
    assert {split for split, size in read.sizes.items() if size} == {"train"}


FAULTS = [
    Fault("formats: m4a alone", "speech", _m4a, _ten_with_sound)
    if FFMPEG
    else Fault("formats: m4a alone", "speech", _m4a, error=NEEDS),
    Fault("formats: m4a and wav", "speech", _m4a_and_wav, _fourteen)
    if FFMPEG
    else Fault(
        "formats: m4a and wav", "speech", _m4a_and_wav, _wav_alone,
        doubt=rf"4 of 14 recordings.*{NEEDS}.*dataset.extensions=\.wav",
    ),
    Fault("formats: m4a called wav", "speech", _m4a_called_wav, None if FFMPEG else _extra_is_named),
    Fault("formats: mp3, aiff and wav", "speech", _formats, _all_formats),
    Fault("formats: mp3 alone", "speech", _mp3_alone, _ten_with_sound),
    Fault(
        "formats: unknown ending", "speech", _unknown_ending, _ten_with_sound,
        error=r"holds no file ending in .*\.mp3.*it holds 10 \.xyz: set dataset\.extensions",
        cure={"extensions": ".xyz"},
    ),
    Fault("length: a single file", "speech", _one_file, _end_is_test, options={"window": 1}),
    Fault("length: windows of listed recordings", "speech", _listed, _groups_stay_together, options={"window": 1}),
    Fault("formats: ten endings", "speech", _mixed_endings, _ten_with_sound),
    Fault("formats: content and ending differ", "speech", _wrong_ending, _ten_with_sound),
    Fault("channels: silent left", "speech", _silent_left, _ten_with_sound, warning="mean is used .dataset.channel"),
    Fault(
        "channels: silent left is chosen", "speech", _silent_left, options={"channel": "0"},
        doubt=r"10 of 10 recordings are silent throughout.*dataset\.channel=1",
    ),
    Fault("channels: right is chosen", "speech", _silent_left, _ten_with_sound, options={"channel": "1"}),
    Fault(
        "channels: opposite phase", "speech", _opposite_phase, doubt=r"silent throughout.*set dataset\.channel=0",
    ),
    Fault("silence: two of ten", "speech", _some_silent, doubt=r"2 of 10 .* silent throughout.*dataset\.silent=skip"),
    Fault("silence: skipped", "speech", _some_silent, _silent_are_skipped, options={"silent": "skip"}),
    Fault(
        "silence: first 1.5 s", "speech", _late_sound,
        doubt=r"10 of 10 recordings begin with silence.*first 1 s.*dataset\.trim=true",
    ),
    Fault("silence: first 1.5 s, trimmed", "speech", _late_sound, _is_trimmed, options={"trim": True}),
    Fault("silence: faint noise first", "speech", _late_sound_with_noise, doubt=r"dataset\.trim=true"),
    Fault("silence: kept on wish", "speech", _late_sound, options={"trim": False}),
    Fault("length: four long recordings", "speech", _long, doubt=r"last 60 s or more.*first 1 s.*dataset\.window=1"),
    Fault("length: windows", "speech", _long, _windows, options={"window": 1}),
    Fault("length: whole on wish", "speech", _long, options={"window": "whole"}),
    Fault(
        "length: windows of one recording", "speech", _one_long, _end_is_test, options={"window": 1},
        warning="1 of 2 recordings are shorter than 1 s",
    ),
    Fault(
        "length: windows of one recording, pretrained on whole", "speech", _one_long, _only_training,
        options={"window": 1, "test_fraction": 0}, warning="1 of 2 recordings are shorter than 1 s",
    ),
    Fault("damage: wav cut in half", "speech", _cut_in_half, _two_bad),
    Fault("damage: halves are used", "speech", _cut_in_half, _halves_are_used, options={"truncated": "use"}),
    Fault("damage: aiff, au and mp3 cut in half", "speech", _cut_aiff_and_mp3, _three_bad),
    Fault("damage: length unknown to the header", "speech", _streamed, _ten_with_sound),
    Fault("damage: flac of 2^36 samples", "speech", _endless_flac, _one_bad),
    Fault("name that is not UTF-8", "speech", _name_without_utf8, _eight, warning=r"caf\\xe9.wav is left out.*rename"),
]  # fmt: skip
