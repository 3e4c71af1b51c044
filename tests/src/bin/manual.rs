//! Writes `docs/manual.md` from the operation table: `cargo run --release -p tensord-tests --bin manual`.
//!
//! Names, numbers, operands, dtypes, views and error codes come from `tensord-shm` itself. What an attribute means in words
//! stands here, by exhaustive `match`, so that an operation without words does not compile. A test holds the file to what
//! this prints.

use std::fmt::Write;
use std::path::PathBuf;

use tensord_shm::dtype::DType;
use tensord_shm::elementwise::{Domain, Elementwise, Yields};
use tensord_shm::error::{Code, Fault};
use tensord_shm::layout::{ELEMENTS_MAX, RANK_MAX, Shape};
use tensord_shm::op::{
    AxisList, AxisSet, Distribution, Meta, OPERANDS_MAX, Op, Reduction, Scan, ScatterMode,
};

fn main() -> std::io::Result<()> {
    std::fs::write(path(), manual())
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/manual.md")
}

/// The whole page.
fn manual() -> String {
    let mut out = String::from(HEAD);
    let _ = write!(
        out,
        "\nRank is at most {RANK_MAX}, and a tensor has at most 2^{} elements. An operation takes at most {OPERANDS_MAX} operands.\n",
        ELEMENTS_MAX.ilog2()
    );
    dtypes(&mut out);
    elementwise(&mut out);
    others(&mut out);
    errors(&mut out);
    out
}

const HEAD: &str = "<!-- Written by `cargo run --release -p tensord-tests --bin manual`. Change the operation table, not this file. -->

# Operations

Every operation that a request can ask for. Names are those of the Array API standard where it has one; Python and Rust use them with
their own spelling. Operations are total: each combination of values has the result that stands here, and only resources fail (memory,
limits, device). Integers wrap wherever a result does not fit. Every intermediate is rounded to its dtype, fused or not, and a
result's bits do not depend on what a request was merged with. A NaN is a NaN: its payload and sign are not promised.
";

fn dtypes(out: &mut String) {
    out.push_str("\n## Dtypes\n\nSums, products and contractions are computed in the accumulator and rounded once.\n\n");
    out.push_str("| dtype | number | bytes | accumulator |\n|---|---|---|---|\n");
    for dtype in DType::ALL {
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | `{}` |",
            dtype.name(),
            dtype.wire(),
            dtype.size(),
            dtype.accumulator().name()
        );
    }
}

fn elementwise(out: &mut String) {
    out.push_str(
        "\n## Elementwise\n\nOperands have one dtype (clients promote before they ask), except the condition of `where`, and are broadcast \
         against each other. Each may be an immediate, a scalar inside the request.\n\n",
    );
    out.push_str("| name | code | operands | takes | yields | cost | definition |\n|---|---|---|---|---|---|---|\n");
    for function in Elementwise::ALL {
        let info = function.info();
        let takes = match info.domain {
            Domain::Any => "any",
            Domain::Number => "numbers",
            Domain::Float => "floats",
            Domain::Integer => "integers",
            Domain::Bits => "integers, bool",
            Domain::Bool => "bool",
        };
        let yields = match info.yields {
            Yields::Same => "same",
            Yields::Bool => "bool",
        };
        let definition = info.definition.replace('|', "\\|");
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {takes} | {yields} | {} | {definition} |",
            info.name,
            function.wire(),
            info.arity,
            info.cost
        );
    }
    out.push_str(
        "\nCost is that of one element in units of an f32 addition, before any measurement.\n",
    );
}

/// One of each operation that is not elementwise, with attributes that stand for all.
fn others(out: &mut String) {
    let meta = Meta {
        dtype: DType::F32,
        shape: Shape::new(&[]).expect("rank 0 is a shape"),
    };
    let list = AxisList::<u64>::default_empty();
    let axes = AxisList::<u8>::default_empty();
    let reductions = Reduction::ALL.map(|kind| Op::Reduce {
        kind,
        axes: AxisSet(0),
        keep: false,
    });
    let mut ops = vec![Op::Cast(DType::F32)];
    ops.extend(reductions);
    ops.extend([Scan::Sum, Scan::Prod].map(|kind| Op::Scan { kind, axis: 0 }));
    ops.extend([
        Op::Contract {
            a: axes,
            b: axes,
            out: axes,
        },
        Op::Reshape(meta.shape),
        Op::Permute(axes),
        Op::Slice {
            starts: AxisList::<i64>::default_empty(),
            steps: AxisList::<i64>::default_empty(),
            lens: list,
        },
        Op::Expand(meta.shape),
        Op::Window {
            axes,
            sizes: list,
            strides: list,
            dilations: list,
        },
        Op::Pad {
            low: list,
            high: list,
        },
        Op::Concat { axis: 0 },
        Op::Gather { axis: 0 },
        Op::Scatter {
            axis: 0,
            mode: ScatterMode::Replace,
        },
        Op::Copy,
        Op::Full(meta),
        Op::Iota { meta, axis: 0 },
        Op::Random {
            meta,
            distribution: Distribution::Uniform,
        },
    ]);
    out.push_str("\n## Reductions, contraction, views, movement, creation\n\n");
    out.push_str("| name | operands | attributes | moves data | takes and yields | definition |\n|---|---|---|---|---|---|\n");
    for op in ops {
        let words = words(&op);
        let moves = if op.is_view() { "no" } else { "yes" };
        let types = dtype_rule(&op).unwrap_or_else(|| words.types.to_owned());
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {moves} | {types} | {} |",
            op.name(),
            words.operands,
            words.attributes,
            words.definition
        );
    }
}

/// A list of no values.
trait Empty {
    fn default_empty() -> Self;
}

impl<T: Copy + Default> Empty for AxisList<T> {
    fn default_empty() -> Self {
        AxisList::new(&[]).expect("an empty list is shorter than the highest rank")
    }
}

/// The rule that the table itself can say.
fn dtype_rule(op: &Op) -> Option<String> {
    let Op::Reduce { kind, .. } = op else {
        return None;
    };
    let taken: Vec<DType> = DType::ALL
        .into_iter()
        .filter(|&dtype| kind.result(dtype).is_some())
        .collect();
    let takes = if taken.len() == DType::ALL.len() {
        "any"
    } else {
        "numbers"
    };
    let same = taken.iter().all(|&dtype| kind.result(dtype) == Some(dtype));
    let yields = match taken.first().and_then(|&dtype| kind.result(dtype)) {
        _ if same => "same".to_owned(),
        Some(dtype) => dtype.name().to_owned(),
        None => return None,
    };
    Some(format!("{takes}; yields {yields}"))
}

/// An operation in words.
struct Words {
    operands: &'static str,
    attributes: &'static str,
    types: &'static str,
    definition: &'static str,
}

fn words(op: &Op) -> Words {
    let of = |operands, attributes, types, definition| Words {
        operands,
        attributes,
        types,
        definition,
    };
    let along = "`axes`, `keep`";
    match op {
        Op::Elementwise(_) => of("1 to 3", "none", "see above", "see above"),
        Op::Cast(_) => of(
            "1",
            "dtype",
            "any; yields the dtype asked for",
            "floats to integers truncate and saturate, NaN becomes 0; integers wrap; anything to bool is `!= 0`; to a narrower float: nearest, ties to even",
        ),
        Op::Reduce { kind, .. } => of("1", along, "", reduction(*kind)),
        Op::Scan { .. } => of(
            "1",
            "`axis`",
            "numbers; yields same",
            "accumulated along the axis, ascending, one element after the other, in the accumulator",
        ),
        Op::Contract { .. } => of(
            "2",
            "labels of `a`, `b` and the output",
            "numbers of one dtype; yields same",
            "sum over all labels that the output lacks of the product of both operands. A label that stands twice in one operand reads its diagonal; sizes of one label agree, or one of them is 1 and is repeated",
        ),
        Op::Reshape(_) => of(
            "1",
            "shape",
            "any; yields same",
            "the same elements in row-major order; data move only where strides do not allow a view",
        ),
        Op::Permute(_) => of(
            "1",
            "`order`",
            "any; yields same",
            "output axis `k` is input axis `order[k]`",
        ),
        Op::Slice { .. } => of(
            "1",
            "`starts`, `steps`, `lens`",
            "any; yields same",
            "along each axis `lens[k]` elements from `starts[k]`, `steps[k]` apart; negative steps go backwards",
        ),
        Op::Expand(_) => of(
            "1",
            "shape",
            "any; yields same",
            "axes of size 1 repeated, leading axes added",
        ),
        Op::Window { .. } => of(
            "1",
            "`axes`, `sizes`, `strides`, `dilations`",
            "any; yields same",
            "each named axis becomes its window positions, `(n - (size - 1) * dilation - 1) / stride + 1` of them, and an axis of `size` is appended for it",
        ),
        Op::Pad { .. } => of(
            "1",
            "`low`, `high`, immediate `fill`",
            "any; yields same",
            "`low[k]` and `high[k]` elements of `fill` before and behind each axis; fused into what reads it",
        ),
        Op::Concat { .. } => of(
            "1 to 32",
            "`axis`",
            "any, all of one dtype; yields same",
            "joined along the axis",
        ),
        Op::Gather { .. } => of(
            "`x`, `index` (i64)",
            "`axis`",
            "any; yields the dtype of `x`",
            "the axis is replaced by the axes of `index`; negative indices count from the end; an index out of range reads 0",
        ),
        Op::Scatter { .. } => of(
            "`x`, `index` (i64), `updates`",
            "`axis`, `mode`",
            "any to replace, numbers to add; yields the dtype of `x`",
            "`x` with rows along the axis replaced (of several at one place the last in row-major order counts) or added to (in row-major order); an index out of range is dropped",
        ),
        Op::Copy => of(
            "1",
            "none",
            "any; yields same",
            "a row-major tensor of its own",
        ),
        Op::Full(_) => of(
            "none",
            "dtype, shape, immediate",
            "any",
            "every element is the immediate",
        ),
        Op::Iota { .. } => of(
            "none",
            "dtype, shape, `axis`, immediates `start`, `step`",
            "numbers",
            "`start + index * step` along the axis; floats: one fused multiply-add of the index in f64, then rounded; integers wrap",
        ),
        Op::Random { .. } => of(
            "none",
            "dtype, shape, distribution, immediate `key`",
            "bits: integers, bool; uniform, normal: floats",
            "Philox 4x32-10 with the element's row-major index as counter: all bits of an integer, uniform in [0, 1), or standard normal by Box-Muller",
        ),
    }
}

fn reduction(kind: Reduction) -> &'static str {
    match kind {
        Reduction::Sum => "sum; +0 for no elements; integers wrap",
        Reduction::Prod => "product; 1 for no elements; integers wrap",
        Reduction::Min => {
            "least element, NaN if any is; for no elements +inf or the greatest integer"
        }
        Reduction::Max => {
            "greatest element, NaN if any is; for no elements -inf or the least integer"
        }
        Reduction::Any => "is any element other than 0? False for no elements",
        Reduction::All => "are all elements other than 0? True for no elements",
        Reduction::ArgMin => {
            "row-major index of the first least element, or of the first NaN; 0 for no elements"
        }
        Reduction::ArgMax => {
            "row-major index of the first greatest element, or of the first NaN; 0 for no elements"
        }
    }
}

fn errors(out: &mut String) {
    out.push_str(
        "\n## Error codes\n\nBy whose doing: *client* ends the session, *refusal* fails one request or call, *device* is told to everyone involved. C has \
         them as `TENSORD_ERR_NAME`; Python's exceptions carry the name.\n\n| name | number | whose doing |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        let fault = match code.fault() {
            Fault::Client => "client",
            Fault::Refusal => "refusal",
            Fault::Device => "device",
        };
        let _ = writeln!(out, "| `{}` | {} | {fault} |", code.name(), *code as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_is_what_the_table_says() {
        let written = std::fs::read_to_string(path()).expect("docs/manual.md is in the repository");
        assert!(
            written == manual(),
            "docs/manual.md is out of date: cargo run --release -p tensord-tests --bin manual"
        );
    }
}
