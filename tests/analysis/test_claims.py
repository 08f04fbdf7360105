"""What a file says of the shapes of inner values, and what of it follows from the inputs."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.analysis import claims
from graphopt.analysis.constants import Constants

SAME, HALF = (f'Conv <strides = [{n}, {n}], auto_pad = "SAME_UPPER">' for n in (1, 2))


def corrected(body: str, *claimed: str, inputs: str = "float[N, 4, H, W] x") -> dict[str | None, object]:
    """The claims of a model that do not hold, with what takes their place; it ends in ``y``."""
    told = ", ".join(["int64[4] s = {4, 4, 3, 3}", "int64[2] t = {6, 5}", *claimed])
    model = ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17, "custom" : 1]> g ({inputs}) => (float[] y) <{told}>'
        f" {{ w = ConstantOfShape (s) m = ConstantOfShape (t) {body} }}"
    )
    return {value.name: found for value, found in claims.corrected(model, Constants(model)).items()}


def test_numbers_of_an_earlier_export_become_what_is_open() -> None:
    claimed = ("float[1, 4, 8, 8] a", "float[1, 4, 4, 4] b")
    found = corrected(f"a = {SAME} (x, w) b = {HALF} (a, w) y = Relu (b)", *claimed)
    assert found == {"a": ("N", 4, "H", "W"), "b": ("N", 4, None, None)}


def test_what_holds_is_left_as_it_is() -> None:
    claimed = ("float[N, 4, H, W] a", "float[N, 4, half, w2] b", "float[?, 4, half, w2] c")
    body = f"a = {SAME} (x, w) b = {HALF} (a, w) c = {HALF} (x, w) d = Add (b, c) y = Relu (d)"
    assert corrected(body, *claimed, "float[N, 4, half, w2] d") == {}


@pytest.mark.parametrize(
    ("claimed", "right"),
    [
        pytest.param(
            "N, 4, H, W", ("N", 4, None, None), id="a size is named as the input's, and is half of it"
        ),
        pytest.param("N, 4, k, k", ("N", 4, "k", None), id="one name for the halves of two"),
        pytest.param("N, H, j, k", ("N", 4, "j", "k"), id="a name for what is a number"),
        pytest.param("N, 5, j, k", ("N", 4, "j", "k"), id="another number"),
        pytest.param("N, 4", ("N", 4, None, None), id="another rank"),
    ],
)
def test_claims_that_contradict_what_follows(claimed: str, right: tuple[object, ...]) -> None:
    assert corrected(f"a = {HALF} (x, w) y = Relu (a)", f"float[{claimed}] a") == {"a": right}


def test_one_name_for_sizes_of_two_values_that_differ_at_some_sizes() -> None:
    """Half of an odd size is rounded up in the one and down in the other."""
    body = f"""a = {HALF} (x, w) y = Neg (a)
        b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x) c = Relu (b)"""
    found = corrected(body, "float[N, 4, j, k] a", "float[N, 4, j, m] c")
    assert found == {"c": ("N", 4, None, "m")}


def test_the_number_at_which_alone_the_model_runs_may_stand_for_its_name() -> None:
    assert corrected("a = Relu (x) y = MatMul (a, m)", "float[N, 4, H, 6] a") == {}


def test_what_data_tells_is_kept_where_all_sizes_are_given() -> None:
    body = "a = NonZero (x) b = Cast <to = 1> (a) y = Relu (b)"
    given, open_ = "float[2, 4, 3, 3] x", "float[N, 4, 3, 3] x"
    claimed = ("int64[4, 7] a", "float[4, n] b")
    assert corrected(body, *claimed, inputs=given) == {}
    assert corrected(body, *claimed, inputs=open_) == {"a": (4, None)}


def test_claims_behind_operators_without_a_rule_stay_where_all_sizes_are_given() -> None:
    body = "a = Relu (x) b = custom.Local (a) c = Relu (b) y = Add (c, c)"
    claimed = ("float[1, 4, 8, 8] b", "float[1, 4, 8, 8] c")
    assert corrected(body, *claimed, inputs="float[1, 4, 9, 9] x") == {}


@pytest.mark.parametrize(
    ("claimed", "right"),
    [
        pytest.param("N, 4, H, W", ("N", 4, "H", "W"), id="it names all open sizes"),
        pytest.param("1, 4, 8, 8", (None,) * 4, id="of an earlier export"),
        pytest.param("N, 4, 8, 8", (None,) * 4, id="of an export with an open batch"),
        pytest.param("N, 4, H2, W2", (None,) * 4, id="names of no input"),
    ],
)
def test_claims_behind_operators_without_a_rule(claimed: str, right: tuple[object, ...]) -> None:
    """And what reads them."""
    body = f"b = custom.Local (x) c = {HALF} (b, w) y = Relu (c)"
    found = corrected(body, f"float[{claimed}] b", f"float[{claimed}] c")
    assert found == ({} if right[1] else dict.fromkeys("bc", right))


def test_claims_behind_operators_without_a_rule_need_name_what_reaches_them_alone() -> None:
    body = "b = custom.Local (x) c = custom.Local (z) d = Relu (c) y = custom.Local (b, d)"
    claimed = ("float[N, 4, 8, 8] b", "float[8] c")
    found = corrected(body, *claimed, inputs="float[N, 4, 8, 8] x, float[K] z")
    assert found == {"c": (None,)}


def test_claims_in_bodies() -> None:
    branch = """{0} () => (float[1, 4, 4, 4] {0}2) <float[1, 4, 8, 8] {0}1>
        {{ {0}1 = Relu (x) {0}2 = {1} ({0}1, w) }}"""
    body = f"y = If (c) <then_branch = {branch.format('t', HALF)}, else_branch = {branch.format('e', HALF)}>"
    found = corrected(body, inputs="float[N, 4, H, W] x, bool c")
    inner, last = ("N", 4, "H", "W"), ("N", 4, None, None)
    assert found == {"t1": inner, "t2": last, "e1": inner, "e2": last}


SCAN = """h, z = Scan <num_scan_inputs = 1, scan_output_axes = [1], body =
    b (float[N, 4, H, W] p, float[N, 2, H, W] q) => (float[N, 4, H, W] r, float[N, 4, H, W] u)
    {{ k = Concat <axis = {axis}> (p, q) r = {made} u = Identity (r) }}> (x, e) a = Relu (z) y = Relu (a)"""


def test_names_of_open_sizes_go_into_the_body_of_a_scan_and_come_out_of_it() -> None:
    inputs = "float[N, 4, H, W] x, float[T, N, 2, H, W] e"
    body = SCAN.format(axis=1, made="Conv (k, v)")
    told = "int64[4] c = {4, 6, 1, 1}"
    made = "v = ConstantOfShape (c) "
    assert corrected(made + body, told, "float[N, T, 4, H, W] a", inputs=inputs) == {}
    found = corrected(made + body, told, "float[T, N, 4, H, W] a", inputs=inputs)
    assert found == {"a": ("N", "T", 4, "H", "W")}


def test_names_of_sizes_that_both_branches_make_come_out_of_an_if() -> None:
    branch = "{0} () => (float[N, {1}, H, W] {0}1) {{ {0}1 = Concat <axis = 1> ({2}) }}"
    then, other = branch.format("t", 8, "x, x"), branch.format("e", 12, "x, x, x")
    body = f"z = If (c) <then_branch = {then}, else_branch = {other}> y = Relu (z)"
    inputs = "float[N, 4, H, W] x, bool c"
    assert corrected(body, "float[N, k, H, W] z", inputs=inputs) == {}


def test_a_size_that_a_loop_changes_has_no_name() -> None:
    loop = """v = Loop (n, , x) <body =
        b (int64 i, bool k, float[N, 4, H, W] p) => (bool m, float[N, 4, H, W] q)
        { m = Identity (k) q = Concat <axis = 2> (p, x) }> y = Relu (v)"""
    found = corrected(loop, "float[N, 4, H, W] v", inputs="float[N, 4, H, W] x, int64 n")
    assert found == dict.fromkeys("pqv", ("N", 4, None, "W"))


def test_claims_of_what_a_loop_carries() -> None:
    loop = """v = Loop (n, , x) <body =
        b (int64 i, bool k, float[1, 4, 8, 8] p) => (bool m, float[1, 4, 8, 8] q)
        { m = Identity (k) q = Relu (p) }> y = Relu (v)"""
    found = corrected(loop, "float[1, 4, 8, 8] v", inputs="float[N, 4, H, W] x, int64 n")
    assert found == dict.fromkeys("pqv", ("N", 4, "H", "W"))
