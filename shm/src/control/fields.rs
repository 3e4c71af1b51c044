//! Fields of a control message as bytes: the header, numbers, texts, and the fields that have a range.
//!
//! What lies beyond the sender's structure reads as zero, the default of every field, so that versions understand each
//! other. Which fields a message has is not known here (see `wire`).

use super::{
    BODY_BYTES, Class, HEADER_BYTES, MAGIC, MESSAGE_BYTES, Malformed, MessageBytes, VERSION_MAX,
    VERSION_MIN, WEIGHT_DEFAULT, WEIGHT_MAX, cut_at_character,
};

/// The sequence number of a message that may otherwise be nonsense, so that its sender can be answered.
pub fn sequence_of(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk::<4>(), bytes.get(8..16)) {
        (Some(magic), Some(sequence)) if u32::from_le_bytes(*magic) == MAGIC => {
            u64::from_le_bytes(sequence.try_into().expect("eight bytes were taken"))
        }
        _ => 0,
    }
}

/// Puts fields one behind another, without padding, little-endian.
pub(super) struct Writer {
    bytes: MessageBytes,
    end: usize,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer {
            bytes: [0; MESSAGE_BYTES],
            end: HEADER_BYTES,
        }
    }
}

impl Writer {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.end..self.end + field.len()].copy_from_slice(field);
        self.end += field.len();
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// A text field takes its full room, so that what follows it has a fixed place.
    pub(super) fn text(&mut self, text: &str, room: usize) {
        let length = cut_at_character(text, room);
        self.u16(u16::try_from(length).expect("texts are shorter than a message"));
        let start = self.end;
        self.put(&text.as_bytes()[..length]);
        self.end = start + room;
    }

    pub(super) fn finish(mut self, kind: u16, sequence: u64) -> MessageBytes {
        let size =
            u16::try_from(self.end - HEADER_BYTES).expect("a message is shorter than 64 KiB");
        self.bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        self.bytes[4..6].copy_from_slice(&VERSION_MAX.to_le_bytes());
        self.bytes[6..8].copy_from_slice(&kind.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        self.bytes[16..18].copy_from_slice(&size.to_le_bytes());
        self.bytes
    }
}

/// Takes fields in the order in which [`Writer`] put them. Beyond the sender's structure everything reads as zero.
pub(super) struct Reader<'a> {
    body: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the header; gives type, sequence and the body.
    pub(super) fn open(bytes: &'a [u8]) -> Result<(u16, u64, Reader<'a>), Malformed> {
        // The magic first: somebody who speaks HTTP should hear so, and not a complaint about lengths.
        if bytes.first_chunk::<4>() != Some(&MAGIC.to_le_bytes()) {
            return Err(if bytes.len() < 4 {
                Malformed::Length(bytes.len())
            } else {
                Malformed::Magic
            });
        }
        if bytes.len() != MESSAGE_BYTES {
            return Err(Malformed::Length(bytes.len()));
        }
        let mut header = Reader {
            body: &bytes[4..HEADER_BYTES],
        };
        let version = header.u16();
        let kind = header.u16();
        let sequence = header.u64();
        let size = header.u16();
        if !(VERSION_MIN..=VERSION_MAX).contains(&version) {
            return Err(Malformed::Version(version));
        }
        if usize::from(size) > BODY_BYTES {
            return Err(Malformed::Size(size));
        }
        Ok((
            kind,
            sequence,
            Reader {
                body: &bytes[HEADER_BYTES..HEADER_BYTES + usize::from(size)],
            },
        ))
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        let present = N.min(self.body.len());
        field[..present].copy_from_slice(&self.body[..present]);
        self.body = &self.body[present..];
        field
    }

    pub(super) fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(super) fn class(&mut self) -> Result<Class, Malformed> {
        let number = self.u8();
        Class::from_wire(number).ok_or(Malformed::Field {
            field: "class",
            value: u64::from(number),
        })
    }

    pub(super) fn weight(&mut self) -> Result<u32, Malformed> {
        match self.u32() {
            0 => Ok(WEIGHT_DEFAULT),
            weight if weight <= WEIGHT_MAX => Ok(weight),
            weight => Err(Malformed::Field {
                field: "weight",
                value: u64::from(weight),
            }),
        }
    }

    pub(super) fn text(&mut self, field: &'static str, room: usize) -> Result<String, Malformed> {
        let length = usize::from(self.u16());
        if length > room {
            return Err(Malformed::Field {
                field,
                value: length as u64,
            });
        }
        let present = room.min(self.body.len());
        let (text, rest) = self.body.split_at(present);
        self.body = rest;
        // A structure that ends inside its text was cut by its sender.
        let text = text.get(..length).ok_or(Malformed::Field {
            field,
            value: length as u64,
        })?;
        String::from_utf8(text.to_vec()).map_err(|_| Malformed::Text(field))
    }
}
