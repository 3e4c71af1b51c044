"""The type stubs name what the module has, no more and no less."""

import ast
import inspect
import pathlib


def test_stubs_name_the_public_names(xp):
    tree = ast.parse((pathlib.Path(xp.__file__).parent / "__init__.pyi").read_text())
    named, methods = set(), {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            named.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods[node.name] = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.AnnAssign):
            named.add(node.target.id)
    named = {name for name in named if not name.startswith("_") or name.startswith("__")}
    present = {name for name in vars(xp) if not name.startswith("_") and not inspect.ismodule(getattr(xp, name))}
    assert present <= named
    assert {name for name in named if not hasattr(xp, name)} == set()
    assert {name for name in methods["Array"] if not hasattr(xp.Array, name)} == {"__buffer__"}


def test_everything_of_the_standard_is_there_or_says_why_not(xp):
    # The functions of the 2024.12 standard, without its extensions.
    standard = """abs acos acosh add all any arange argmax argmin argsort asarray asin asinh astype atan atan2 atanh
    bitwise_and bitwise_invert bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor broadcast_arrays broadcast_to
    can_cast ceil clip concat conj copysign cos cosh count_nonzero cumulative_prod cumulative_sum diff divide empty
    empty_like equal exp expand_dims expm1 eye finfo flip floor floor_divide from_dlpack full full_like greater greater_equal
    hypot iinfo imag isdtype isfinite isinf isnan less less_equal linspace log log10 log1p log2 logaddexp logical_and
    logical_not logical_or logical_xor matmul matrix_transpose max maximum mean meshgrid min minimum moveaxis multiply
    negative nextafter nonzero not_equal ones ones_like permute_dims positive pow prod real reciprocal remainder repeat
    reshape result_type roll round searchsorted sign signbit sin sinh sort sqrt square squeeze stack std subtract sum take
    take_along_axis tan tanh tensordot tile tril triu trunc unique_all unique_counts unique_inverse unique_values unstack var
    vecdot where zeros zeros_like e inf nan newaxis pi""".split()
    assert [name for name in standard if not hasattr(xp, name)] == []
