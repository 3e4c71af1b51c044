"""What the demo rests on, tested without a daemon: the network, its references, the resampler, tracks and verdicts.

Run with `python -m unittest discover -s bench/demo`. Needs what the demo needs (`requirements.txt`, and once a network).
"""

import tempfile
import unittest
from pathlib import Path

import numpy as np

import assets
import judge
import numpy_shim
from network import SileroVad
from peers import OnnxRuntimeNetwork
from reference import Float64Reference
from track import Track

CHUNKS = 420  # one loop of Debian's nine recordings


class Network(unittest.TestCase):
    """The network in small operations is the network of the ONNX file."""

    @classmethod
    def setUpClass(cls):
        cls.weights = assets.read_weights(assets.model_path())
        cls.stream = assets.Stream(assets.recordings(), 0)
        cls.exact = Float64Reference(cls.weights).probabilities(cls.stream, 0, CHUNKS)

    def under_numpy(self, dtype):
        """All chunks through `network.py` under NumPy."""
        network = SileroVad(numpy_shim, self.weights, dtype)
        state = network.silence()
        result = []
        for index in range(CHUNKS):
            probability, *state = network(self.stream.frame(index).astype(dtype), *state)
            self.assertEqual((probability.shape, probability.dtype), ((1, 1), dtype))
            result.append(float(probability[0, 0]))
        return np.array(result)

    def test_float32_agrees_with_onnxruntime_over_all_recordings(self):
        peer = OnnxRuntimeNetwork(str(assets.model_path()), 1, [self.stream])
        theirs = np.array([peer.chunk(index, 0)[0][0] for index in range(CHUNKS)])
        mine = self.under_numpy(np.float32)
        self.assertTrue(judge.check_onnxruntime(mine, theirs)["holds"])
        self.assertLess(np.abs(mine - theirs).max(), 1e-5)
        self.assertLess(np.abs(mine[:32] - theirs[:32]).max(), 1e-6)
        # The recordings are mostly speech with pauses: an answer that never changes would be no test.
        self.assertTrue(0.3 < np.mean(theirs > 0.5) < 0.9)

    def test_float64_agrees_with_the_reference(self):
        self.assertLess(np.abs(self.under_numpy(np.float64) - self.exact).max(), 1e-12)

    def test_a_batch_by_hand_gives_each_stream_its_own_answer(self):
        streams = [assets.Stream(assets.recordings(), client) for client in (0, 5, 12)]
        together = OnnxRuntimeNetwork(str(assets.model_path()), None, streams)
        exact = [Float64Reference(self.weights).probabilities(stream, 0, 40) for stream in streams]
        for index in range(40):
            values, _ = together.chunk(index, 0)
            np.testing.assert_allclose(values, [stream[index] for stream in exact], atol=1e-5)


class Window(unittest.TestCase):
    """`window` of the shim against its definition, element by element."""

    def test_every_option(self):
        x = np.arange(7 * 5.0).reshape(7, 5)
        view = numpy_shim.window(x, (0, -1), (3, 2), (2, 1), (1, 2), (1, 0))
        self.assertEqual(view.shape, (4, 3, 3, 2))
        padded = np.pad(x, ((1, 1), (0, 0)))
        for i, j, k, m in np.ndindex(view.shape):
            self.assertEqual(view[i, j, k, m], padded[2 * i + k, j + 2 * m])


class Resampler(unittest.TestCase):
    """What `resample` promises: passes below 6.7 kHz, 80 dB against what would fold back."""

    def error_db(self, rate, frequency):
        """The difference from the ideal result, in dB relative to the input, away from the ends."""
        result = assets.resample(np.cos(2 * np.pi * frequency * np.arange(rate) / rate), rate).astype(np.float64)
        ideal = np.cos(2 * np.pi * frequency * np.arange(len(result)) / 16_000) if frequency < 8_000 else 0.0
        middle = slice(2_000, -2_000)
        return 20 * np.log10(np.sqrt(np.mean((result - ideal)[middle] ** 2) * 2) + 1e-15)

    def test_pass_and_stop_band(self):
        for rate in (48_000, 44_100, 22_050, 8_000):
            for frequency in (0, 440, 3_000, 6_600, 8_100, 9_000):
                if frequency < rate / 2:
                    with self.subTest(rate=rate, frequency=frequency):
                        self.assertLess(self.error_db(rate, frequency), -78.0)

    def test_lengths(self):
        for count in (0, 1, 2, 3, 100):
            self.assertEqual(len(assets.resample(np.zeros(count, np.float32), 48_000)), -(-count // 3))


class Streams(unittest.TestCase):
    """Frames follow one another as a microphone gives them."""

    def test_context_is_the_end_of_the_chunk_before(self):
        clips = [("a", np.arange(1_300, dtype=np.float32)), ("b", -np.arange(700, dtype=np.float32))]
        for client in (0, 1, 2):
            stream = assets.Stream(clips, client)
            for index in range(1, 30):
                np.testing.assert_array_equal(stream.frame(index)[:64], stream.frame(index - 1)[-64:])

    def test_a_run_begins_in_silence(self):
        stream = assets.Stream([("a", np.ones(2_000, np.float32))], 0)
        self.assertEqual(stream.frame(7, first=7)[:64].sum(), 0.0)
        self.assertEqual(stream.frame(8, first=7)[:64].sum(), 64.0)

    def test_no_two_clients_hear_the_same(self):
        clips = [(str(seed), np.random.default_rng(seed).random(3_000, np.float32)) for seed in range(3)]
        frames = [assets.Stream(clips, client).frame(1).tobytes() for client in range(9)]
        self.assertEqual(len(set(frames)), 9)


class Tracks(unittest.TestCase):
    """What a client wrote can be read while and after it runs."""

    def test_reader_sees_what_was_written(self):
        with tempfile.TemporaryDirectory() as folder:
            reader = Track(Path(folder) / "t", 10, create=True)
            writer = Track(Path(folder) / "t", 10)
            self.assertEqual((reader.ready, reader.count, reader.finished), (False, 0, False))
            writer.mark_ready()
            writer.append(0.25, 0.5)
            self.assertEqual((reader.ready, reader.probabilities.tolist(), reader.latencies.tolist()), (True, [0.25], [0.5]))


class Verdicts(unittest.TestCase):
    """The judge says no when it should."""

    def test_onnxruntime(self):
        theirs = np.full(10_000, 0.5)
        for change, holds in ((0.0, True), (9e-5, True), (2e-4, False), (np.nan, False)):
            mine = theirs.copy()
            mine[3] += change
            self.assertEqual(judge.check_onnxruntime(mine, theirs)["holds"], holds, change)
        mine = theirs.copy()
        mine[:11] += 2e-5
        self.assertFalse(judge.check_onnxruntime(mine, theirs)["holds"])

    def test_distance(self):
        exact = np.zeros(100)
        self.assertTrue(judge.check_distance(exact + 1e-7, exact + 1e-7, exact)["holds"])
        self.assertFalse(judge.check_distance(exact + 1.2e-7, exact + 1e-7, exact)["holds"])
        self.assertFalse(judge.check_distance(exact + np.nan, exact + 1e-7, exact)["holds"])

    def test_bits(self):
        one = np.array([0.25, 0.5])
        self.assertTrue(judge.check_bits("", [one], [one])["holds"])
        self.assertFalse(judge.check_bits("", [one], [np.nextafter(one, 1, dtype=np.float32)])["holds"])
        self.assertFalse(judge.check_bits("", [one], [one[:0]])["holds"])


if __name__ == "__main__":
    unittest.main()
