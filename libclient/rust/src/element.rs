//! Rust types as elements of tensors.

use tensord_shm::dtype::DType;

/// A type whose values are elements of one dtype.
pub trait Element: Copy + Send + Sync + 'static {
    /// The dtype.
    const DTYPE: DType;

    /// The element whose bytes these are; exactly `DTYPE.size()` of them.
    fn from_bytes(bytes: &[u8]) -> Self;

    /// Writes the element's bytes; exactly `DTYPE.size()` of them.
    fn to_bytes(self, bytes: &mut [u8]);

    /// The bits of one element, zero-extended.
    fn bits(self) -> u64 {
        let mut bytes = [0; 8];
        self.to_bytes(&mut bytes[..Self::DTYPE.size()]);
        u64::from_le_bytes(bytes)
    }
}

macro_rules! elements {
    ($($type:ty: $dtype:ident,)*) => {
        $(impl Element for $type {
            const DTYPE: DType = DType::$dtype;

            #[inline]
            fn from_bytes(bytes: &[u8]) -> Self {
                Self::from_ne_bytes(bytes.try_into().expect("the caller passes one element"))
            }

            #[inline]
            fn to_bytes(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_ne_bytes());
            }
        })*
    };
}

elements! {
    i8: I8, i16: I16, i32: I32, i64: I64, u8: U8, u16: U16, u32: U32, u64: U64, f32: F32, f64: F64,
    half::f16: F16, half::bf16: Bf16,
}

impl Element for bool {
    const DTYPE: DType = DType::Bool;

    #[inline]
    fn from_bytes(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }

    #[inline]
    fn to_bytes(self, bytes: &mut [u8]) {
        bytes[0] = u8::from(self);
    }
}

/// Bytes of elements, in order.
pub(crate) fn write_all<T: Element>(elements: &[T], bytes: &mut [u8]) {
    for (element, bytes) in elements.iter().zip(bytes.chunks_exact_mut(T::DTYPE.size())) {
        element.to_bytes(bytes);
    }
}

/// Elements of bytes, in order.
pub(crate) fn read_all<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytes
        .chunks_exact(T::DTYPE.size())
        .map(T::from_bytes)
        .collect()
}
