# SPDX-License-Identifier: Apache-2.0
"""Reading sound files: what is good comes out right, what is bad is one AudioError."""

import re
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile as sf
import soxr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import audio
from features.audio import read_audio
from kws.errors import AudioError, UsageError

TONE = np.round(9000 * np.sin(2 * np.pi * 440 / 16_000 * np.arange(8_000))).astype(np.int16)
LOSSLESS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
            ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"),
            ("W64", "PCM_16"), ("RF64", "PCM_16"), ("WAVEX", "PCM_16")]  # fmt: skip
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


def written(path, samples=TONE, rate=16_000, file_format="WAV", subtype=None):
    if subtype in ("FLOAT", "DOUBLE") and samples.dtype == np.int16:
        samples = samples / 32768
    sf.write(path, samples, rate, format=file_format, subtype=subtype)
    return path


@pytest.mark.parametrize(("file_format", "subtype"), LOSSLESS)
def test_a_mono_16_khz_file_comes_back_bit_for_bit(tmp_path, file_format, subtype):
    notes = []
    path = written(tmp_path / "tone", file_format=file_format, subtype=subtype)
    samples = read_audio(path, dtype="int16", notes=notes)
    assert samples.dtype == np.int16
    assert np.array_equal(samples, TONE)
    floats = read_audio(path)
    assert floats.dtype == np.float32
    assert np.array_equal(floats, TONE / 32768)
    assert notes == []


@pytest.mark.parametrize("subtype", ["PCM_U8", "ULAW"])
def test_eight_bits_are_read_within_their_step(tmp_path, subtype):
    samples = read_audio(written(tmp_path / "tone", subtype=subtype), dtype="int16")
    assert np.abs(samples.astype(int) - TONE).max() <= 256


@pytest.mark.parametrize(("file_format", "subtype"), LOSSY)
def test_lossy_formats_keep_length_and_sound(tmp_path, file_format, subtype):
    samples = read_audio(written(tmp_path / "tone", file_format=file_format, subtype=subtype))
    assert len(samples) == len(TONE)
    assert np.corrcoef(samples, TONE)[0, 1] > 0.99


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_another_rate_is_resampled_and_said_so(tmp_path, rate):
    seconds = np.arange(rate // 2) / rate
    notes = []
    path = written(tmp_path / "tone.wav", 0.25 * np.sin(2 * np.pi * 440 * seconds), rate, subtype="FLOAT")
    samples = read_audio(path, notes=notes)
    assert abs(len(samples) - 8_000) <= 1
    expected = 0.25 * np.sin(2 * np.pi * 440 / 16_000 * np.arange(len(samples)))
    assert np.abs(samples - expected)[400:-400].max() < 1e-3
    assert notes == [f"{path}: resampled from {rate} Hz to 16000 Hz"]


def test_resampling_in_blocks_equals_resampling_at_once(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).normal(0, 0.1, 44_100).astype(np.float32)
    path = written(tmp_path / "noise.wav", noise, 44_100, subtype="FLOAT")
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 1000)
    np.testing.assert_allclose(read_audio(path), soxr.resample(noise, 44_100, 16_000), atol=1e-6)


@pytest.mark.parametrize("channels", [2, 5, 64])
def test_channels_are_averaged_and_said_so(tmp_path, channels):
    gains = np.arange(channels) / channels
    notes = []
    path = written(tmp_path / "tone.wav", TONE[:, None] / 32768 * gains, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path, notes=notes), TONE / 32768 * gains.mean(), atol=1e-6)
    assert notes == [f"{path}: {channels} channels averaged to one"]


def test_values_beyond_full_scale_saturate_and_are_counted(tmp_path):
    notes = []
    path = written(tmp_path / "loud.wav", np.array([0.5, 1.0, 1.5, -1.0, -3e38, 3e38]), subtype="FLOAT")
    assert read_audio(path, dtype="int16", notes=notes).tolist() == [16384, 32767, 32767, -32768, -32768, 32767]
    assert read_audio(path).max() < 1.0
    assert notes == [f"{path}: 3 values beyond full scale saturated"]


def test_int16_rounds_half_to_even(tmp_path):
    path = written(tmp_path / "half.wav", np.array([0.5, 1.5, 2.5, -0.5, -1.5]) / 32768, subtype="FLOAT")
    assert read_audio(path, dtype="int16").tolist() == [0, 2, 2, 0, -2]


def test_the_name_of_a_file_does_not_decide_its_format(tmp_path):
    for name in ("tone.raw", "tone.mp3", "tone.txt", "tone"):
        assert np.array_equal(read_audio(written(tmp_path / name), dtype="int16"), TONE)


def test_an_unknown_dtype_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="float64"):
        read_audio(written(tmp_path / "tone.wav"), dtype="float64")


def refuse(path, problem):
    with pytest.raises(AudioError, match=problem) as caught:
        read_audio(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_an_empty_file_are_refused(tmp_path):
    refuse(tmp_path / "nowhere.wav", "no such file")
    refuse(tmp_path / ("x" * 300), "cannot be read: File name too long")
    refuse(tmp_path, "is not a file")
    (tmp_path / "empty.wav").touch()
    refuse(tmp_path / "empty.wav", "is empty")


def test_a_header_without_samples_is_refused(tmp_path):
    refuse(written(tmp_path / "none.wav", TONE[:0]), "holds no samples")


@pytest.mark.parametrize("content", [b"hello world\n" * 100, b"\0" * 5000, b"RIFF", b"ID3\x04" + b"\xff" * 4000])
@pytest.mark.parametrize("name", ["x.wav", "x.raw", "x.mp3"])
def test_what_is_not_audio_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    refuse(path, "cannot be decoded|holds no samples")


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64", "OGG", "MP3"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, file_format, kept):
    path = written(tmp_path / "cut", file_format=file_format)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    refuse(path, "truncated|cannot be decoded")


@pytest.mark.parametrize(("file_format", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), *LOSSY])
def test_what_cannot_be_decoded_is_said_in_our_words(tmp_path, file_format, subtype):
    path, random = tmp_path / f"x.{file_format}", np.random.default_rng(0)
    path.write_bytes(random.bytes(5_000))
    refuse(path, r"decoded: it is no sound file, or of a kind .* \(convert it to WAV or FLAC\)$")
    content = written(path, file_format=file_format, subtype=subtype).read_bytes()
    for damaged in (content[:40], content[: len(content) // 2], content[:44] + random.bytes(len(content))):
        path.write_bytes(damaged)
        if file_format == "WAV" and len(damaged) > len(content):
            continue  # noise is as good a sound as any
        refuse(path, r"(decoded: it is damaged, cut short, or in an encoding .*|is truncated: .*) \(copy .* again.*\)$")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_cut_anywhere_is_refused(tmp_path, subtype):
    """Between pages too, where all that is left decodes; whole, and with some junk behind, the file is good."""
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * 16_000)
    path = written(tmp_path / "noise.ogg", noise, file_format="OGG", subtype=subtype)
    content = path.read_bytes()
    assert len(read_audio(path)) == len(noise)
    pages = [match.start() for match in re.finditer(b"OggS\0", content)]
    assert len(pages) > 8
    for kept in (*pages[len(pages) // 2 :: 3], len(content) // 2, pages[-1] + 20, len(content) - 1):
        path.write_bytes(content[:kept])
        refuse(path, "its last Ogg page is not the end of the stream|cannot be decoded")
    path.write_bytes(content[: pages[-1]])
    refuse(path, "its last Ogg page is not the end of the stream")
    path.write_bytes(content + b"junk" * 5000)
    assert len(read_audio(path)) == len(noise)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    samples = TONE / 32768
    samples[7_000] = value
    refuse(written(tmp_path / "nan.wav", samples, subtype="FLOAT"), "NaN or infinite")


@pytest.mark.parametrize("claimed", [0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
def test_an_absurd_length_in_the_header_is_refused(tmp_path, claimed):
    path = written(tmp_path / "long.wav")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", claimed)
    path.write_bytes(content)
    refuse(path, rf"truncated: its header claims {claimed} bytes, the file holds 16000")


def test_an_absurd_length_in_a_flac_header_is_refused_without_the_memory(tmp_path):
    path = written(tmp_path / "long.flac", file_format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the 36 bits of the number of samples in STREAMINFO
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    tracemalloc.start()
    refuse(path, "truncated: 8000 of 68719476735 frames|cannot be decoded")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_flac_without_a_length_is_refused(tmp_path):
    path = written(tmp_path / "piped.flac", file_format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    refuse(path, "does not say how long it is")


@pytest.mark.parametrize("rate", [1, 999, 2_000_000_000])
def test_an_absurd_sample_rate_is_refused(tmp_path, rate):
    path = written(tmp_path / "rate.wav")
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    refuse(path, f"sample rate of {rate} Hz")


def test_a_small_file_that_decodes_to_hours_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "MAX_SECONDS", 0.25)
    refuse(written(tmp_path / "zeros.flac", np.zeros(16_000, np.int16), file_format="FLAC"), "is longer than")


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_gives_samples_or_one_audio_error(tmp_path, data):
    """Bytes changed, cut out or appended anywhere in a small file; derandomized, as the decoder is not ours."""
    file_format, subtype = data.draw(st.sampled_from(LOSSLESS + LOSSY[:2]))
    original = tmp_path / f"{file_format}-{subtype}"
    if not original.exists():
        written(original, TONE[:1_000], file_format=file_format, subtype=subtype)
    content = bytearray(original.read_bytes())
    early = st.integers(0, min(120, len(content) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(early | st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.just(len(content)) | st.integers(1, len(content)))]
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    line = ""
    tracemalloc.start()
    try:
        assert len(read_audio(damaged, dtype="int16")) > 0
    except AudioError as error:
        line = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert line == "" or (line.startswith(f"{damaged}: ") and "\n" not in line)
