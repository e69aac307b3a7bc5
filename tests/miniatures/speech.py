"""Miniatures of the public speech sets, in the upstreams' layout and formats.

WRITERS maps (modality, name) to a function that writes the set below a root.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

RNG = np.random.default_rng(0)


def recording(path: Path, rate: int = 16_000, seconds: float = 0.25) -> None:
    """A tone of random pitch in noise, 16 bit, as in all of these upstreams."""
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * RNG.uniform(150, 600) * times) + 0.02 * RNG.normal(size=len(times))
    soundfile.write(path, wave, rate, subtype="PCM_16")


def librispeech_part(root: Path, part: str, chapters: dict[int, tuple[int, ...]], utterances: int) -> None:
    """LibriSpeech/<part>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac beside a transcript."""
    top = root / "speech" / "librispeech" / "LibriSpeech"
    for speaker, numbers in chapters.items():
        for chapter in numbers:
            folder = top / part / str(speaker) / str(chapter)
            names = [f"{speaker}-{chapter}-{number:04}" for number in range(utterances)]
            for name in names:
                recording(folder / f"{name}.flac")
            (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(f"{name} HELLO\n" for name in names))
    (top / "SPEAKERS.TXT").write_text("; ID |SEX| SUBSET | MINUTES | NAME\n")


def librispeech(root: Path) -> None:
    librispeech_part(root, "train-clean-100", {103: (1240, 1241), 19: (198,)}, 3)
    librispeech_part(root, "train-clean-360", {14: (208,)}, 3)
    librispeech_part(root, "train-other-500", {20: (205,)}, 3)
    librispeech_transfer(root)


def librispeech_transfer(root: Path) -> None:
    librispeech_part(root, "dev-clean", {1272: (128104, 135031), 84: (121123, 121550), 251: (118436,)}, 5)


def audio_mnist(root: Path) -> None:
    """data/<speaker>/<digit>_<speaker>_<take>.wav at 48 kHz, and a file about the speakers."""
    data = root / "speech" / "AudioMNIST" / "data"
    for speaker in range(1, 61):
        for digit in (speaker % 10, (speaker + 3) % 10):
            recording(data / f"{speaker:02}" / f"{digit}_{speaker:02}_0.wav", 48_000, 0.1)
    (data / "audioMNIST_meta.txt").write_text("{}")


FLUENT = {  # action, object and location of each table's rows
    "train": [("activate", "lights", "kitchen"), ("change language", "Chinese", "none"), ("bring", "socks", "none"),
              ("increase", "volume", "none"), ("decrease", "heat", "washroom")],
    "valid": [("deactivate", "lamp", "bedroom"), ("bring", "juice", "none")],
    "test": [("change language", "none", "none"), ("deactivate", "music", "none"), ("increase", "heat", "bedroom")],
}  # fmt: skip


def fluent_speech(root: Path) -> None:
    """data/{train,valid,test}_data.csv with an unnamed first column, wavs/speakers/<speaker>/<id>.wav."""
    top = root / "speech" / "fluent_speech" / "fluent_speech_commands_dataset"
    (top / "data").mkdir(parents=True)
    for table, rows in FLUENT.items():
        with (top / "data" / f"{table}_data.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["", "path", "speakerId", "transcription", "action", "object", "location"])
            for number, row in enumerate(rows):
                path = f"wavs/speakers/{table}Speaker/{table}-{number}.wav"
                writer.writerow([number, path, f"{table}Speaker", "Switch it, please", *row])
                recording(top / path)


def google_speech(root: Path) -> None:
    """<word>/<speaker>_nohash_<take>.wav, lists of the test and validation files, and background noise."""
    top = root / "speech" / "google_speech"
    for word in ("eight", "yes", "no", "learn"):
        for speaker in ("0a7c2a8d", "1b4c9b89", "2da58b32", "3b4f8f24"):
            for take in range(2):
                recording(top / word / f"{speaker}_nohash_{take}.wav")
    recording(top / "_background_noise_" / "pink_noise.wav", seconds=1.0)
    (top / "_background_noise_" / "README.md").write_text("noise")
    lists = {"validation": "1b4c9b89", "testing": "3b4f8f24"}
    for name, speaker in lists.items():
        lines = [f"{word}/{speaker}_nohash_{take}.wav\n" for word in ("no", "yes", "eight") for take in range(2)]
        (top / f"{name}_list.txt").write_text("".join(lines))
    for name in ("README.md", "LICENSE", ".DS_Store"):
        (top / name).write_text("")


def voxceleb1(root: Path) -> None:
    """iden_split.txt and wav/<speaker>/<video>/<number>.wav."""
    top = root / "speech" / "voxceleb1"
    lines = []
    for speaker in ("id10003", "id10001", "id10002"):
        for part, video in (("1", "1zcIwhmdeo4"), ("2", "7gWzIy6yIIk"), ("3", "8mfCVmWkZ5k")):
            for number in (1, 2):
                lines.append(f"{part} {speaker}/{video}/{number:05}.wav\n")
                recording(top / "wav" / speaker / video / f"{number:05}.wav")
    (top / "iden_split.txt").write_text("".join(lines))


WRITERS: dict[tuple[str, str], Callable[[Path], None]] = {
    ("speech", "librispeech"): librispeech,
    ("speech", "librispeech_transfer"): librispeech_transfer,
    ("speech", "audio_mnist"): audio_mnist,
    ("speech", "fluent_speech_location"): fluent_speech,
    ("speech", "fluent_speech_action"): fluent_speech,
    ("speech", "fluent_speech_object"): fluent_speech,
    ("speech", "google_speech"): google_speech,
    ("speech", "voxceleb1"): voxceleb1,
}
