//! What a simulated buffer holds in place of values: a label of everything that its content was made from.
//!
//! A label is two sets of 64 bits, sixteen bytes that are repeated over the whole buffer. A client uploads its label, a launch
//! writes to each output the union of the labels that its instance read, and a download shows the label of the result. Unions do not depend
//! on what was fused or merged, so whoever asked for the operations knows exactly which label must come out: that of another
//! session, of another instance or of memory that was not zeroed is seen.

use tensord_shm::dtype::Scalar;

/// Bytes of a label.
pub const LABEL_BYTES: usize = 16;
/// Most labels read of one operand.
const SAMPLES: usize = 16;
/// Top byte of a 32-bit immediate that is a label.
const SCALAR_MARK: u64 = 0x5a;

/// Sets of sessions and of origins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Label {
    /// A bit for each session, by number modulo 64.
    pub sessions: u64,
    /// A bit for each upload and immediate, by a number of the client's choice modulo 64.
    pub origins: u64,
}

impl Label {
    /// Of zeroed memory.
    pub const ZERO: Label = Label {
        sessions: 0,
        origins: 0,
    };
    /// Of memory that nobody has written since the device was made.
    pub const UNWRITTEN: Label = Label {
        sessions: u64::MAX,
        origins: u64::MAX,
    };

    /// Of a value that comes from one place.
    pub fn new(session: u64, origin: u64) -> Label {
        Label {
            sessions: 1 << (session % 64),
            origins: 1 << (origin % 64),
        }
    }

    /// Both.
    #[must_use]
    pub fn union(self, other: Label) -> Label {
        Label {
            sessions: self.sessions | other.sessions,
            origins: self.origins | other.origins,
        }
    }

    fn bytes(self) -> [u8; LABEL_BYTES] {
        (u128::from(self.sessions) | u128::from(self.origins) << 64).to_le_bytes()
    }

    fn from_bytes(bytes: [u8; LABEL_BYTES]) -> Label {
        let word = u128::from_le_bytes(bytes);
        Label {
            sessions: word as u64,
            origins: (word >> 64) as u64,
        }
    }

    /// What of the label `len` bytes can say.
    #[must_use]
    pub fn within(self, len: u64) -> Label {
        let mut bytes = self.bytes();
        if let Some(rest) = bytes.get_mut(len.min(LABEL_BYTES as u64) as usize..) {
            rest.fill(0);
        }
        Label::from_bytes(bytes)
    }

    /// Writes the bytes from `at` on of a buffer with this label.
    pub fn fill(self, at: u64, to: &mut [u8]) {
        let bytes = self.bytes();
        let phase = (at % LABEL_BYTES as u64) as usize;
        let mut turned = bytes;
        turned.rotate_left(phase);
        for chunk in to.chunks_mut(LABEL_BYTES) {
            let len = chunk.len();
            chunk.copy_from_slice(&turned[..len]);
        }
    }

    /// Is this what [`Label::fill`] writes?
    pub fn fills(self, at: u64, bytes: &[u8]) -> bool {
        let mut turned = self.bytes();
        turned.rotate_left((at % LABEL_BYTES as u64) as usize);
        bytes
            .chunks(LABEL_BYTES)
            .all(|chunk| *chunk == turned[..chunk.len()])
    }

    /// The union of some labels in the bytes from the start of a buffer: of all where they are few.
    pub fn of_bytes(bytes: &[u8]) -> Label {
        let (whole, rest) = bytes.as_chunks::<LABEL_BYTES>();
        if whole.is_empty() {
            let mut padded = [0; LABEL_BYTES];
            padded[..rest.len()].copy_from_slice(rest);
            return Label::from_bytes(padded);
        }
        let step = whole.len().div_ceil(SAMPLES);
        let sampled = whole.iter().step_by(step).chain(whole.last());
        sampled.fold(Label::ZERO, |all, &bytes| {
            all.union(Label::from_bytes(bytes))
        })
    }

    /// An immediate of 32 bits that carries the label of one place.
    pub fn scalar(session: u64, origin: u64) -> Scalar {
        Scalar(SCALAR_MARK << 24 | (session % 64) << 16 | (origin % 64))
    }

    /// The label that an immediate carries; that of zeroed memory where it carries none.
    pub fn of_scalar(scalar: Scalar) -> Label {
        match scalar.0 >> 24 {
            SCALAR_MARK => Label::new(scalar.0 >> 16 & 0xff, scalar.0 & 0xffff),
            _ => Label::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_read_again_from_any_length_and_place() {
        let label = Label::new(3, 40).union(Label::new(60, 7));
        for len in [1, 4, 15, 16, 17, 64, 1000, 4096] {
            let mut bytes = vec![0; len];
            label.fill(0, &mut bytes);
            assert!(label.fills(0, &bytes));
            assert_eq!(Label::of_bytes(&bytes), label.within(len as u64), "{len}");
            assert!(label.fills(len as u64 / 3, &bytes[len / 3..]));
        }
    }

    #[test]
    fn one_foreign_byte_is_seen() {
        let label = Label::new(3, 40);
        let mut bytes = vec![0; 100];
        label.fill(0, &mut bytes);
        bytes[77] ^= 1;
        assert!(!label.fills(0, &bytes));
    }

    #[test]
    fn an_immediate_carries_a_label_and_other_immediates_none() {
        assert_eq!(Label::of_scalar(Label::scalar(5, 9)), Label::new(5, 9));
        for other in [0, 1, 0x3f80_0000, u64::MAX] {
            assert_eq!(Label::of_scalar(Scalar(other)), Label::ZERO);
        }
    }
}
