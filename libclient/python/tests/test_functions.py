"""Creation, manipulation, reductions, products and inspection against NumPy."""

import numpy as np
import pytest
from check import same, values

A = values((3, 4, 5), "float32", 7)
N = values((3, 4, 5), "int32", 8)


# ------------------------------------------------------------------------------------------------- creation


def test_constants_of_a_shape(xp):
    for name in ("zeros", "ones"):
        same(xp, getattr(xp, name)((2, 3)), getattr(np, name)((2, 3), np.float32))
        same(xp, getattr(xp, name)(4, dtype=xp.int8), getattr(np, name)(4, np.int8))
        same(xp, getattr(xp, name + "_like")(xp.asarray(N)), getattr(np, name + "_like")(N))
    assert xp.empty((2, 0)).shape == (2, 0)
    same(xp, xp.full((2,), 7), np.full(2, 7))
    same(xp, xp.full((2,), 1.5), np.full(2, 1.5, np.float32))
    same(xp, xp.full((), True), np.array(True))
    same(xp, xp.full_like(xp.asarray(N), 3), np.full_like(N, 3))


@pytest.mark.parametrize("arguments", [(5,), (2, 7), (7, 2), (0, 10, 3), (10, 0, -3), (-4, 4, 2)], ids=repr)
def test_arange(xp, arguments):
    same(xp, xp.arange(*arguments), np.arange(*arguments))
    same(xp, xp.arange(*arguments, dtype=xp.float64), np.arange(*arguments, dtype=np.float64))


def test_ranges_of_floats(xp):
    same(xp, xp.arange(0.0, 1.0, 0.25), np.arange(0, 1, 0.25, dtype=np.float32))
    same(xp, xp.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype=np.float32))
    same(xp, xp.linspace(-1, 1, 7, dtype=xp.float64), np.linspace(-1, 1, 7), rtol=1e-15)
    same(xp, xp.linspace(0, 1, 4, endpoint=False), np.linspace(0, 1, 4, endpoint=False, dtype=np.float32))
    same(xp, xp.linspace(3, 9, 1), np.array([3], np.float32))


def test_matrices(xp):
    same(xp, xp.eye(3), np.eye(3, dtype=np.float32))
    same(xp, xp.eye(3, 4, k=1, dtype=xp.int32), np.eye(3, 4, k=1, dtype=np.int32))
    for k in (-1, 0, 2):
        same(xp, xp.tril(xp.asarray(A), k=k), np.tril(A, k))
        same(xp, xp.triu(xp.asarray(A), k=k), np.triu(A, k))
    for indexing in ("xy", "ij"):
        have = xp.meshgrid(xp.arange(3), xp.arange(4), xp.arange(2), indexing=indexing)
        for one, want in zip(have, np.meshgrid(np.arange(3), np.arange(4), np.arange(2), indexing=indexing)):
            same(xp, one, want)


def test_random_is_a_function_of_its_key(xp):
    first, again = xp.random.uniform(7, (1000,)), xp.random.uniform(7, (1000,))
    other = xp.random.uniform(8, (1000,))
    u = xp.asnumpy(first)
    assert u.dtype == np.float32 and ((u >= 0) & (u < 1)).all()
    np.testing.assert_array_equal(u, xp.asnumpy(again))
    assert (u != xp.asnumpy(other)).any()
    n = xp.asnumpy(xp.random.normal(7, (10_000,)))
    assert abs(n.mean()) < 0.05 and abs(n.std() - 1) < 0.05
    assert xp.random.bits(7, (4,)).dtype == xp.uint32
    with pytest.raises(TypeError, match="float"):
        xp.random.uniform(7, (4,), dtype=xp.int32)


# --------------------------------------------------------------------------------------------- manipulation


def test_views(xp):
    x = xp.asarray(A)
    same(xp, xp.reshape(x, (5, -1)), A.reshape(5, -1))
    same(xp, xp.permute_dims(x, (2, 0, 1)), A.transpose(2, 0, 1))
    same(xp, xp.reshape(xp.permute_dims(x, (2, 0, 1)), (60,)), A.transpose(2, 0, 1).reshape(60))
    same(xp, x.mT, A.swapaxes(1, 2))
    same(xp, x[0].T, A[0].T)
    same(xp, xp.matrix_transpose(x), A.swapaxes(1, 2))
    same(xp, xp.expand_dims(x, axis=-1), A[..., None])
    same(xp, xp.squeeze(xp.expand_dims(x, axis=1), 1), A)
    same(xp, xp.broadcast_to(x[0], (2, 4, 5)), np.broadcast_to(A[0], (2, 4, 5)))
    same(xp, xp.flip(x), np.flip(A))
    same(xp, xp.flip(x, axis=1), np.flip(A, 1))
    same(xp, xp.moveaxis(x, 0, -1), np.moveaxis(A, 0, -1))
    for have, want in zip(xp.broadcast_arrays(x, x[:1]), np.broadcast_arrays(A, A[:1])):
        same(xp, have, want)


def test_movement(xp):
    x = xp.asarray(A)
    same(xp, xp.concat([x, x], axis=1), np.concatenate([A, A], 1))
    same(xp, xp.concat([x, x], axis=None), np.concatenate([A, A], None))
    same(xp, xp.concat([x[i % 3 : i % 3 + 1] for i in range(40)]), np.concatenate([A[i % 3 : i % 3 + 1] for i in range(40)]))
    same(xp, xp.stack([x, x], axis=-1), np.stack([A, A], -1))
    for have, want in zip(xp.unstack(x, axis=1), A.swapaxes(0, 1)):
        same(xp, have, want)
    same(xp, xp.roll(x, 2), np.roll(A, 2))
    same(xp, xp.roll(x, (1, -2), axis=(0, 2)), np.roll(A, (1, -2), (0, 2)))
    same(xp, xp.repeat(x, 3, axis=1), np.repeat(A, 3, 1))
    same(xp, xp.repeat(x, xp.asarray(np.array([1, 0, 2])), axis=0), np.repeat(A, [1, 0, 2], 0))
    same(xp, xp.tile(x, (2, 1, 3)), np.tile(A, (2, 1, 3)))
    same(xp, xp.pad(x, 1), np.pad(A, 1))
    same(xp, xp.pad(x, (0, (1, 2), 0), 7), np.pad(A, ((0, 0), (1, 2), (0, 0)), constant_values=7))
    same(xp, xp.take(x, xp.asarray(np.array([2, 0])), axis=1), A.take([2, 0], 1))
    positions = A.argmax(1, keepdims=True)
    same(xp, xp.take_along_axis(x, xp.asarray(positions), axis=1), np.take_along_axis(A, positions, 1))
    same(xp, xp.diff(x, axis=1), np.diff(A, axis=1))


def test_scatter(xp):
    x = xp.zeros((5,))
    positions = xp.asarray(np.array([1, 3, 1, 9]))
    same(xp, xp.scatter(x, positions, xp.asarray(np.array([1, 2, 4, 8], np.float32))), np.array([0, 4, 0, 2, 0], np.float32))
    added = xp.scatter(x, positions, xp.asarray(np.array([1, 2, 4, 8], np.float32)), mode="add")
    same(xp, added, np.array([0, 5, 0, 2, 0], np.float32))


def test_data_dependent_shapes(xp):
    for have, want in zip(xp.nonzero(xp.asarray(N)), np.nonzero(N)):
        same(xp, have, want)
    same(xp, xp.count_nonzero(xp.asarray(N), axis=1), np.count_nonzero(N, axis=1))


def test_manipulation_errors(xp):
    x = xp.asarray(A)
    with pytest.raises(ValueError, match=r"\(3, 4, 5\).*\(7,\)"):
        xp.reshape(x, (7,))
    with pytest.raises(IndexError, match="axis 3"):
        xp.sum(x, axis=3)
    with pytest.raises(ValueError, match="twice"):
        xp.sum(x, axis=(0, 0))
    with pytest.raises((ValueError, IndexError), match="permute"):
        xp.permute_dims(x, (0, 0, 1))
    with pytest.raises(ValueError, match="size 4"):
        xp.squeeze(x, 1)
    with pytest.raises(ValueError, match="concat"):
        xp.concat([x, x[0]])
    with pytest.raises(NotImplementedError, match="sort"):
        xp.sort(x)


# ----------------------------------------------------------------------------------------------- reductions


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), ()], ids=repr)
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(xp, axis, keepdims):
    x, n = xp.asarray(A), xp.asarray(N)
    options = {"axis": axis, "keepdims": keepdims}
    same(xp, xp.sum(x, **options), A.sum(**options), rtol=1e-5, atol=1e-5)
    same(xp, xp.prod(x, **options), A.prod(**options), rtol=1e-4, atol=1e-12)
    same(xp, xp.max(x, **options), A.max(**options))
    same(xp, xp.min(x, **options), A.min(**options))
    same(xp, xp.sum(n, **options), N.sum(**options))
    same(xp, xp.any(n > 5, **options), (N > 5).any(**options))
    same(xp, xp.all(n > -9, **options), (N > -9).all(**options))
    same(xp, xp.mean(x, **options), A.mean(**options), rtol=1e-5, atol=1e-6)
    same(xp, xp.var(x, **options), A.var(**options), rtol=1e-4, atol=1e-6)
    same(xp, xp.std(x, **options, correction=0), A.std(**options), rtol=1e-4, atol=1e-6)


def test_positions_of_extremes(xp):
    x = xp.asarray(A)
    for axis in (None, 0, 1, 2):
        same(xp, xp.argmax(x, axis=axis), A.argmax(axis))
        same(xp, xp.argmin(x, axis=axis, keepdims=True), A.argmin(axis, keepdims=True))


def test_dtypes_of_sums(xp):
    for name, want in [("int8", "int64"), ("uint8", "uint64"), ("bool", "int64"), ("float32", "float32"), ("int64", "int64")]:
        assert xp.sum(xp.ones((3,), dtype=getattr(xp, name))).dtype.name == want
    assert xp.sum(xp.ones((3,), dtype=xp.int8), dtype=xp.float64).dtype == xp.float64


def test_nothing_to_reduce(xp):
    empty = xp.zeros((0, 3))
    same(xp, xp.sum(empty, axis=0), np.zeros(3, np.float32))
    same(xp, xp.prod(empty), np.array(1, np.float32))
    with pytest.raises(ValueError, match="no elements"):
        xp.max(empty, axis=0)


def test_cumulative(xp):
    x = xp.asarray(A)
    same(xp, xp.cumulative_sum(x, axis=1), np.cumsum(A, 1), rtol=1e-5, atol=1e-6)
    same(xp, xp.cumulative_prod(xp.asarray(N[0, 0]) + 1), np.cumprod(N[0, 0].astype(np.int64) + 1))
    have = xp.cumulative_sum(xp.asarray(N), axis=0, include_initial=True)
    same(xp, have, np.concatenate([np.zeros((1, 4, 5), np.int64), np.cumsum(N, 0, dtype=np.int64)]))


# ------------------------------------------------------------------------------------------------- products


@pytest.mark.parametrize(
    "a, b",
    [((3, 4), (4, 5)), ((4,), (4, 5)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((0, 4), (4, 2))],
    ids=repr,
)  # fmt: skip
def test_matmul(xp, a, b):
    p, q = values(a, "float64", 1), values(b, "float64", 2)
    same(xp, xp.asarray(p) @ xp.asarray(q), p @ q, rtol=1e-12, atol=1e-12)
    same(xp, xp.matmul(xp.asarray(p), xp.asarray(q)), p @ q, rtol=1e-12, atol=1e-12)


def test_products(xp):
    p, q = values((3, 4, 5), "float64", 1), values((5, 4, 6), "float64", 2)
    x, y = xp.asarray(p), xp.asarray(q)
    same(xp, xp.tensordot(x, y, axes=([1, 2], [1, 0])), np.tensordot(p, q, ([1, 2], [1, 0])), rtol=1e-12, atol=1e-12)
    same(xp, xp.tensordot(x, y, axes=1), np.tensordot(p, q, 1), rtol=1e-12, atol=1e-12)
    same(xp, xp.tensordot(x, y, axes=0), np.tensordot(p, q, 0), rtol=1e-12)
    same(xp, xp.vecdot(x, x), (p * p).sum(-1), rtol=1e-12)
    same(xp, xp.vecdot(x, x[0], axis=-2), (p * p[0]).sum(-2), rtol=1e-12)
    same(xp, xp.contract(x, y, "abc,cbd->da"), np.einsum("abc,cbd->da", p, q), rtol=1e-12, atol=1e-12)
    small = xp.asarray(np.full((2, 2), 100, np.int8))
    same(xp, small @ small, np.full((2, 2), (100 * 100 * 2) % 256 - 256 if (100 * 100 * 2) % 256 > 127 else (100 * 100 * 2) % 256, np.int8))
    same(xp, xp.contract(small, small, "ik,kj->ij"), np.full((2, 2), 20000, np.int32))


def test_product_errors(xp):
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(4, 5\)"):
        xp.ones((2, 3)) @ xp.ones((4, 5))
    with pytest.raises(ValueError, match="ik,kj->ij"):
        xp.contract(xp.ones((2, 3)), xp.ones((3, 2)), "ik;kj")
    for labels in ("ik,kj->iz", "ik,kj", "ik,kj->ii", "i k, k j -> i1", "ik,kj,jl->il", ""):
        with pytest.raises(ValueError, match="contract .*label"):
            xp.contract(xp.ones((2, 3)), xp.ones((3, 2)), labels)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(4, 5\).*3.*4"):
        xp.contract(xp.ones((2, 3)), xp.ones((4, 5)), "ik,kj->ij")
    with pytest.raises(TypeError):
        xp.ones((2, 2)) @ 2.0


def test_windows(xp):
    x = xp.asarray(A)
    want = np.lib.stride_tricks.sliding_window_view(A, (2, 3), (1, 2))
    same(xp, xp.window(x, (1, 2), (2, 3)), want)
    same(xp, xp.window(x, (1, 2), (2, 3), strides=(1, 2)), want[:, :, ::2])
    padded = np.pad(A, ((0, 0), (1, 1), (0, 0)))
    same(xp, xp.window(x, 1, 3, padding=1), np.lib.stride_tricks.sliding_window_view(padded, 3, 1))
    uneven = np.pad(A, ((0, 0), (0, 2), (0, 0)))
    same(xp, xp.window(x, 1, 3, padding=[(0, 2)]), np.lib.stride_tricks.sliding_window_view(uneven, 3, 1))
    same(xp, xp.window(x, -1, 2, dilations=2), np.stack([A[..., :3], A[..., 2:]], -1))


def test_convolution_is_a_contraction_over_windows(xp):
    image, kernel = values((2, 8, 9, 3), "float64", 3), values((3, 2, 3, 5), "float64", 4)
    windows = xp.window(xp.asarray(image), (1, 2), (3, 2), strides=2, padding=1)
    have = xp.contract(windows, xp.asarray(kernel), "bhwcij,ijco->bhwo")
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 2), (1, 2))[:, ::2, ::2]
    same(xp, have, np.einsum("bhwcij,ijco->bhwo", view, kernel), rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------------- inspection


def test_namespace(xp):
    x = xp.ones((2, 3))
    assert x.__array_namespace__() is xp
    assert x.__array_namespace__(api_version="2024.12") is xp
    with pytest.raises(ValueError):
        x.__array_namespace__(api_version="1999.01")
    info = xp.__array_namespace_info__()
    assert info.default_dtypes()["integral"] == xp.int64
    assert info.dtypes(kind="bool") == {"bool": xp.bool}
    assert info.devices() == ["cpu"] and info.default_device() == x.device
    assert xp.__array_api_version__ == "2024.12"
    assert (x.shape, x.ndim, x.size, x.dtype, x.nbytes) == ((2, 3), 2, 6, xp.float32, 24)
    assert x.to_device("cpu") is x
    with pytest.raises(ValueError, match="gpu"):
        x.to_device("gpu")


def test_dtypes(xp):
    assert xp.float32 == np.float32 and xp.float32 == np.dtype("float32") and xp.float32 != np.float64
    assert xp.float32 != "float32" and len({xp.float32, xp.float64, xp.float32}) == 2
    assert xp.isdtype(xp.int8, "integral") and xp.isdtype(xp.float32, ("bool", "numeric"))
    assert not xp.isdtype(xp.bool, "numeric") and xp.isdtype(xp.bfloat16, "real floating")
    assert xp.can_cast(xp.int8, xp.int16) and not xp.can_cast(xp.int16, xp.int8)
    assert xp.iinfo(xp.uint8).max == 255 and xp.iinfo(xp.int64).min == -(2**63)
    for name in ("float16", "float32", "float64"):
        have, want = xp.finfo(getattr(xp, name)), np.finfo(name)
        assert (have.bits, have.eps, have.max, have.smallest_normal) == (want.bits, want.eps, want.max, want.smallest_normal)
    assert xp.finfo(xp.bfloat16).eps == 2.0**-7
    with pytest.raises(AttributeError, match="complex"):
        xp.complex64


def test_casts(xp):
    a = np.array([-1.5, 0.0, 2.5, 300.0], np.float32)
    x = xp.asarray(a)
    same(xp, x.astype(xp.int32), a.astype(np.int32))
    same(xp, xp.astype(x, xp.bool), a.astype(bool))
    same(xp, x.astype(xp.int8), np.array([-1, 0, 2, 127], np.int8))
    same(xp, x.astype(xp.float16), a.astype(np.float16))
    same(xp, x.astype("float64"), a.astype(np.float64))
    assert x.astype(xp.float32).dtype == xp.float32


def test_representation(xp):
    assert repr(xp.asarray(np.array([1.0, 2.5], np.float32))) == "Array([1. , 2.5], dtype=float32)"
    assert repr(xp.ones((2,), dtype=xp.bfloat16)) == "Array([1., 1.], dtype=bfloat16)"
    assert repr(xp.zeros((0, 2))) == "Array([], shape=(0, 2), dtype=float32)"
    assert str(xp.asarray(3)) == "3"
