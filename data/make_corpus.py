# SPDX-License-Identifier: Apache-2.0
"""Choose the demo corpus out of Google Speech Commands v0.02: ``python data/make_corpus.py SPEECH_COMMANDS data``.

Speakers never cross splits: training clips come from the data set's training speakers; validation and testing share its
validation speakers between them. Clips are re-encoded as Opus; `validation_list.txt` and `testing_list.txt` name the
splits, as in the data set itself.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile as sf

KEYWORDS = ("yes", "stop", "left", "right")
OTHERS = ("bed", "cat", "eight", "five", "four", "happy", "no", "one", "three", "two", "up", "zero")
COUNTS = {
    "keyword": {"training": 120, "validation": 26, "testing": 20},
    "other": {"training": 26, "validation": 9, "testing": 5},
}
NOISES = ("doing_the_dishes", "exercise_bike", "running_tap")
NOISE_SECONDS = 20
SAMPLE_RATE = 16000


def split_speakers(root: Path, rng: np.random.Generator) -> dict[str, str]:
    """Speaker hash -> split; every second validation speaker becomes a testing speaker."""
    validation = {line.split("/")[1].split("_")[0] for line in (root / "validation_list.txt").read_text().split()}
    everyone = {path.name.split("_")[0] for path in root.glob("[a-z]*/*.wav")}
    order = rng.permutation(sorted(validation))
    return dict.fromkeys(everyone - validation, "training") | {
        speaker: ("validation", "testing")[i % 2] for i, speaker in enumerate(order)
    }


def choose(root: Path, word: str, split_of: dict[str, str], rng: np.random.Generator) -> dict[str, list[Path]]:
    """One clip a speaker, so that a few clips hold many voices."""
    chosen: dict[str, list[Path]] = defaultdict(list)
    seen: set[str] = set()
    counts = COUNTS["keyword" if word in KEYWORDS else "other"]
    for path in rng.permutation(np.array(sorted(root.glob(f"{word}/*.wav")), dtype=object)):
        speaker = path.name.split("_")[0]
        split = split_of[speaker]
        if speaker not in seen and len(chosen[split]) < counts[split]:
            chosen[split].append(path)
            seen.add(speaker)
    return chosen


def main(root: Path, out: Path) -> None:
    rng = np.random.default_rng(20261124)
    split_of = split_speakers(root, rng)
    lists: dict[str, list[str]] = {"validation": [], "testing": []}
    for word in (*KEYWORDS, *OTHERS):
        (out / word).mkdir(parents=True, exist_ok=True)
        for split, paths in choose(root, word, split_of, rng).items():
            for path in paths:
                samples, rate = sf.read(path, dtype="int16")
                target = out / word / f"{path.stem}.opus"
                sf.write(target, samples, rate, format="OGG", subtype="OPUS", compression_level=0.9)
                if split in lists:
                    lists[split].append(f"{word}/{target.name}")
    for split, names in lists.items():
        (out / f"{split}_list.txt").write_text("\n".join(sorted(names)) + "\n")
    (out / "_background_noise_").mkdir(exist_ok=True)
    for name in NOISES:
        samples, rate = sf.read(
            root / "_background_noise_" / f"{name}.wav", dtype="int16", frames=NOISE_SECONDS * SAMPLE_RATE
        )
        sf.write(
            out / "_background_noise_" / f"{name}.opus",
            samples,
            rate,
            format="OGG",
            subtype="OPUS",
            compression_level=0.9,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
