//! The elementwise part of the operation table: one row for each function.
//!
//! The table is the single source for names, arities, dtype rules and definitions. Every function is total: each
//! combination of operand values has the result stated here, so the outcome of a request never depends on
//! its values. Floating-point results follow IEEE 754 and the special cases of the Array API standard.

use crate::dtype::{DType, Kind};

/// Which dtypes a function takes. All operands have one dtype (the client library promotes before it asks),
/// except the condition of `Select`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// Every dtype.
    Any,
    /// Integers and floats.
    Number,
    /// Floats.
    Float,
    /// Integers.
    Integer,
    /// Integers and bool.
    Bits,
    /// Bool.
    Bool,
}

impl Domain {
    /// Does the function take `dtype`?
    pub fn contains(self, dtype: DType) -> bool {
        match self {
            Domain::Any => true,
            Domain::Number => dtype.kind() != Kind::Bool,
            Domain::Float => dtype.is_float(),
            Domain::Integer => dtype.is_integer(),
            Domain::Bits => !dtype.is_float(),
            Domain::Bool => dtype == DType::Bool,
        }
    }
}

/// Dtype of a function's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Yields {
    /// That of its operands.
    Same,
    /// Bool.
    Bool,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct ElementwiseInfo {
    /// Name, as in the Array API where it has one.
    pub name: &'static str,
    /// Number of operands, 1 to 3.
    pub arity: u8,
    /// Dtypes taken.
    pub domain: Domain,
    /// Dtype of the result.
    pub yields: Yields,
    /// Cost of one element in units of an f32 addition, before any measurement.
    pub cost: u8,
    /// Total reference definition.
    pub definition: &'static str,
}

macro_rules! elementwise {
    ($($number:literal $variant:ident $name:literal $arity:literal $domain:ident $yields:ident $cost:literal $definition:literal;)*) => {
        /// An elementwise function. Numbers are operation codes on the wire: append only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Elementwise {
            $(#[doc = $definition] $variant = $number,)*
        }

        impl Elementwise {
            /// Every function, in wire order.
            pub const ALL: &'static [Elementwise] = &[$(Elementwise::$variant,)*];

            /// The function with this operation code, if there is one.
            #[inline]
            pub fn from_wire(number: u16) -> Option<Elementwise> {
                match number { $($number => Some(Elementwise::$variant),)* _ => None }
            }

            /// Its row of the table.
            #[inline]
            pub const fn info(self) -> &'static ElementwiseInfo {
                match self {
                    $(Elementwise::$variant => &ElementwiseInfo {
                        name: $name, arity: $arity, domain: Domain::$domain, yields: Yields::$yields,
                        cost: $cost, definition: $definition,
                    },)*
                }
            }
        }
    };
}

impl Elementwise {
    /// Number of operands.
    #[inline]
    pub const fn arity(self) -> usize {
        self.info().arity as usize
    }

    /// The operation code.
    #[inline]
    pub const fn wire(self) -> u16 {
        self as u16
    }

    /// Dtype of the result for operands of `dtype`.
    #[inline]
    pub const fn result(self, dtype: DType) -> DType {
        match self.info().yields {
            Yields::Same => dtype,
            Yields::Bool => DType::Bool,
        }
    }
}

// Integers wrap (two's complement) wherever a result does not fit.
elementwise! {
    32 Neg "negative" 1 Number Same 1 "-x; integers wrap";
    33 Abs "abs" 1 Number Same 1 "|x|; abs of the least integer is itself";
    34 Sign "sign" 1 Number Same 1 "-1, 0 or 1; NaN for NaN; a zero keeps its sign";
    35 Ceil "ceil" 1 Number Same 1 "least integer not below x";
    36 Floor "floor" 1 Number Same 1 "greatest integer not above x";
    37 Trunc "trunc" 1 Number Same 1 "x without its fraction";
    38 Round "round" 1 Number Same 1 "nearest integer, halves to even";
    39 Sqrt "sqrt" 1 Float Same 4 "square root, correctly rounded";
    40 Square "square" 1 Number Same 1 "x * x";
    41 Reciprocal "reciprocal" 1 Float Same 4 "1 / x, correctly rounded";
    42 Exp "exp" 1 Float Same 12 "e^x";
    43 Expm1 "expm1" 1 Float Same 16 "e^x - 1";
    44 Log "log" 1 Float Same 12 "natural logarithm; NaN below 0, -inf at 0";
    45 Log1p "log1p" 1 Float Same 16 "log(1 + x)";
    46 Log2 "log2" 1 Float Same 12 "logarithm to base 2";
    47 Log10 "log10" 1 Float Same 12 "logarithm to base 10";
    48 Sin "sin" 1 Float Same 16 "sine, radians; NaN for infinities";
    49 Cos "cos" 1 Float Same 16 "cosine, radians; NaN for infinities";
    50 Tan "tan" 1 Float Same 20 "tangent, radians; NaN for infinities";
    51 Asin "asin" 1 Float Same 16 "arc sine; NaN outside [-1, 1]";
    52 Acos "acos" 1 Float Same 16 "arc cosine; NaN outside [-1, 1]";
    53 Atan "atan" 1 Float Same 16 "arc tangent";
    54 Sinh "sinh" 1 Float Same 20 "hyperbolic sine";
    55 Cosh "cosh" 1 Float Same 20 "hyperbolic cosine";
    56 Tanh "tanh" 1 Float Same 16 "hyperbolic tangent";
    57 Asinh "asinh" 1 Float Same 24 "inverse hyperbolic sine";
    58 Acosh "acosh" 1 Float Same 24 "inverse hyperbolic cosine; NaN below 1";
    59 Atanh "atanh" 1 Float Same 24 "inverse hyperbolic tangent; NaN outside [-1, 1]";
    60 Sigmoid "sigmoid" 1 Float Same 16 "1 / (1 + e^-x)";
    61 Erf "erf" 1 Float Same 20 "error function";
    62 Exp2 "exp2" 1 Float Same 12 "2^x";
    63 Rsqrt "rsqrt" 1 Float Same 8 "1 / sqrt(x), each step correctly rounded";
    64 IsNan "isnan" 1 Number Bool 1 "is it a NaN? False for integers";
    65 IsInf "isinf" 1 Number Bool 1 "is it an infinity? False for integers";
    66 IsFinite "isfinite" 1 Number Bool 1 "neither NaN nor infinity? True for integers";
    67 Signbit "signbit" 1 Number Bool 1 "is the sign bit set? For unsigned integers false";
    68 LogicalNot "logical_not" 1 Any Bool 1 "x == 0";
    69 BitNot "bitwise_invert" 1 Bits Same 1 "all bits inverted; for bool, not";

    96 Add "add" 2 Number Same 1 "a + b; integers wrap";
    97 Sub "subtract" 2 Number Same 1 "a - b; integers wrap";
    98 Mul "multiply" 2 Number Same 1 "a * b; integers wrap";
    99 Div "divide" 2 Float Same 4 "a / b, correctly rounded";
    100 FloorDiv "floor_divide" 2 Number Same 6 "floor of the quotient; integers: 0 for division by zero, the least integer over -1 wraps; floats as Python's // (inf or NaN for division by zero)";
    101 Remainder "remainder" 2 Number Same 6 "a - floor(a / b) * b with the sign of b, computed without overflow; integers: 0 for division by zero; floats: NaN for division by zero";
    102 Pow "pow" 2 Number Same 30 "a to the power b; integers wrap, a negative exponent gives 0 except for a base of 1 or -1; floats as IEEE pow";
    103 Atan2 "atan2" 2 Float Same 20 "angle of the point (b, a), radians";
    104 Hypot "hypot" 2 Float Same 10 "sqrt(a*a + b*b) without undue overflow; infinity if either is infinite";
    105 LogAddExp "logaddexp" 2 Float Same 30 "log(e^a + e^b) without undue overflow";
    106 Maximum "maximum" 2 Number Same 1 "the greater; NaN if either is NaN; +0 is above -0";
    107 Minimum "minimum" 2 Number Same 1 "the lesser; NaN if either is NaN; -0 is below +0";
    108 CopySign "copysign" 2 Float Same 1 "|a| with the sign of b";
    109 NextAfter "nextafter" 2 Float Same 2 "the next value of the dtype after a towards b; b if they are equal";
    110 Fmod "fmod" 2 Float Same 10 "remainder with the sign of a, exact, as C's fmod";
    112 Eq "equal" 2 Any Bool 1 "a == b";
    113 Ne "not_equal" 2 Any Bool 1 "a != b";
    114 Lt "less" 2 Number Bool 1 "a < b";
    115 Le "less_equal" 2 Number Bool 1 "a <= b";
    116 Gt "greater" 2 Number Bool 1 "a > b";
    117 Ge "greater_equal" 2 Number Bool 1 "a >= b";
    120 LogicalAnd "logical_and" 2 Any Bool 1 "a != 0 and b != 0";
    121 LogicalOr "logical_or" 2 Any Bool 1 "a != 0 or b != 0";
    122 LogicalXor "logical_xor" 2 Any Bool 1 "exactly one of a != 0, b != 0";
    123 BitAnd "bitwise_and" 2 Bits Same 1 "bits set in both";
    124 BitOr "bitwise_or" 2 Bits Same 1 "bits set in either";
    125 BitXor "bitwise_xor" 2 Bits Same 1 "bits set in exactly one";
    126 ShiftLeft "bitwise_left_shift" 2 Integer Same 1 "a * 2^b, wrapped; 0 for b < 0 or b >= width";
    127 ShiftRight "bitwise_right_shift" 2 Integer Same 1 "a / 2^b, rounded down; for b < 0 or b >= width: 0, or -1 where a is negative";

    160 Select "where" 3 Any Same 1 "b where the condition a (bool) holds, else c";
    161 Clamp "clip" 3 Number Same 2 "minimum(maximum(a, b), c)";
    162 Fma "fma" 3 Float Same 1 "a * b + c with one rounding (f16 and bf16: computed in f32 with one rounding there, then rounded)";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_numbers_are_unique_and_round_trip() {
        for &op in Elementwise::ALL {
            assert_eq!(Elementwise::from_wire(op.wire()), Some(op));
            assert!((1..=3).contains(&op.arity()));
        }
    }
}
