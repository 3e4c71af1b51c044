"""Values to and from NumPy, buffers, DLPack and pickles, without copies where there need be none."""

import array
import gc
import pickle

import numpy as np
import pytest
from check import same, values

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (4, 5), (1,) * 12, (1000, 300)], ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back(xp, dtype, shape):
    a = values(shape, dtype)
    same(xp, xp.asarray(a), a)
    same(xp, xp.asarray(a) if not shape else xp.asarray(np.asfortranarray(a)), a)


def test_bfloat16(xp):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    a = np.array([1.0, -2.5, 3e38, np.nan], ml_dtypes.bfloat16)
    x = xp.asarray(a)
    assert x.dtype == xp.bfloat16
    np.testing.assert_array_equal(xp.asnumpy(x).view(np.uint16), a.view(np.uint16))
    same(xp, x.astype(xp.float32), a.astype(np.float32))
    assert (x * 2).dtype == xp.bfloat16
    assert xp.asarray([1.0, 2.0], dtype=xp.bfloat16).dtype == xp.bfloat16


def test_strided_and_foreign_memory(xp):
    a = values((6, 8), "float32")
    same(xp, xp.asarray(a[::2, ::-1]), a[::2, ::-1])
    same(xp, xp.asarray(a.T), a.T)
    same(xp, xp.asarray(np.arange(4, dtype=">i4")), np.arange(4, dtype=np.int32))
    same(xp, xp.asarray(array.array("d", [1.0, 2.0])), np.array([1.0, 2.0]))
    same(xp, xp.asarray(memoryview(b"abc")), np.frombuffer(b"abc", np.uint8))
    same(xp, xp.asarray(np.float64(1.5)), np.array(1.5))


def test_python_values(xp):
    same(xp, xp.asarray(1), np.array(1))
    same(xp, xp.asarray(1.5), np.array(1.5, np.float32))
    same(xp, xp.asarray(True), np.array(True))
    same(xp, xp.asarray([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]]))
    same(xp, xp.asarray([1, 2.5]), np.array([1, 2.5], np.float32))
    same(xp, xp.asarray([True, False]), np.array([True, False]))
    same(xp, xp.asarray([1, 2], dtype=xp.float64), np.array([1.0, 2.0]))
    same(xp, xp.asarray([xp.asarray(1), xp.asarray(2)]), np.array([1, 2]))
    same(xp, xp.asarray([]), np.array([], np.float32))
    for wrong in ("text", [[1], [2, 3]], object()):
        with pytest.raises((TypeError, ValueError)):
            xp.asarray(wrong)
    with pytest.raises(OverflowError, match="300"):
        xp.asarray([1, 300], dtype=xp.uint8)
    with pytest.raises(NotImplementedError, match="complex"):
        xp.asarray([1j])


def test_copies(xp):
    x = xp.asarray([1.0, 2.0])
    assert xp.asarray(x, copy=False).shape == (2,)
    with pytest.raises(ValueError, match="copy=False"):
        xp.asarray(np.ones(2), copy=False)
    with pytest.raises(ValueError):
        xp.ones((2,), device="gpu")


def test_numpy_sees_the_value_without_a_second_copy(xp):
    x = xp.asarray(values((100, 100), "float32"))
    a = xp.asnumpy(x)
    assert not a.flags.owndata and not a.flags.writeable
    view = a[10]
    want = a.copy()
    del x, a
    gc.collect()
    for _ in range(10):
        xp.asnumpy(xp.zeros((100, 100)))
    np.testing.assert_array_equal(view, want[10])


def test_values_that_are_kept_do_not_eat_the_staging(xp):
    x = xp.asarray(values((1 << 20,), "float32"))
    want = xp.asnumpy(x).copy()
    kept = [xp.asnumpy(x) for _ in range(64)]
    assert float(x[3]) == want[3]
    for one in kept:
        np.testing.assert_array_equal(one, want)


def test_buffer_protocol(xp):
    x = xp.asarray(values((2, 3), "int16"))
    view = memoryview(x)
    assert (view.format, view.shape, view.readonly, view.contiguous) == ("h", (2, 3), True, True)
    np.testing.assert_array_equal(np.asarray(x), xp.asnumpy(x))
    np.testing.assert_array_equal(np.asarray(x, dtype=np.float64), xp.asnumpy(x).astype(np.float64))
    copy = np.array(x)
    copy[0] = 5
    with pytest.raises(BufferError):
        memoryview(xp.ones((2,), dtype=xp.bfloat16))


def test_dlpack_to_numpy(xp):
    a = values((4, 5), "float32")
    x = xp.asarray(a)
    assert x.__dlpack_device__() == (1, 0)
    np.testing.assert_array_equal(np.from_dlpack(x), a)
    writable = np.from_dlpack(x, copy=True)
    writable[0] = 3
    same(xp, x, a)
    legacy = x.__dlpack__()
    assert "dltensor" in repr(legacy)
    del legacy
    gc.collect()
    with pytest.raises(BufferError):
        x.__dlpack__(dl_device=(2, 0), max_version=(1, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_from_numpy(xp, dtype):
    a = values((4, 6), dtype)
    same(xp, xp.from_dlpack(a), a)
    same(xp, xp.from_dlpack(a[::2, ::-1]), a[::2, ::-1])


def test_dlpack_of_old_producers(xp):
    class Old:
        def __init__(self, value):
            self.value = value

        def __dlpack__(self, stream=None):
            return self.value.__dlpack__()

        def __dlpack_device__(self):
            return self.value.__dlpack_device__()

    a = values((3,), "int64")
    same(xp, xp.from_dlpack(Old(a)), a)
    assert xp.from_dlpack(xp.asarray(a)).dtype == xp.int64


def test_pickle(xp):
    x = xp.asarray(values((3, 2), "float32"))
    same(xp, pickle.loads(pickle.dumps(x)), xp.asnumpy(x))
    assert pickle.loads(pickle.dumps(xp.float32)) is xp.float32


def test_constants(xp):
    a = values((64, 64), "float32")
    x, y = xp.constant(a), xp.constant(a.copy())
    same(xp, x @ y, a @ a, rtol=1e-4, atol=1e-4)
    same(xp, xp.constant(xp.asarray(a) + 1.0), a + 1)
    same(xp, xp.constant([1, 2], dtype=xp.float64), np.array([1.0, 2.0]))
    same(xp, xp.constant(2.5), np.array(2.5, np.float32))


def test_tolist_and_item(xp):
    assert xp.asarray([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    assert xp.asarray(2.5).item() == 2.5
