//! Values on their way in and out: between staging and device memory.

use std::rc::Rc;

use tensord_shm::CHECKED;
use tensord_shm::dtype::DType;
use tensord_shm::error::Code;
use tensord_shm::op::Meta;
use tensord_shm::record::Region;
use tensord_shm::staging::StagingMap;

use super::Device;
use super::constants::{PendingConstant, Ticket};
use super::memory::{Account, Block, Charge};
use crate::account::Reference;
use crate::engine_process::TenantId;
use crate::graph::value::{State, Value};

/// Bytes copied at a time through private memory.
const PIECE_BYTES: usize = 256 << 10;

/// Where the bytes of an upload come from.
pub enum Bytes<'a> {
    /// A staging region.
    Staged(&'a StagingMap, Region),
    /// The record itself.
    Inline(&'a [u8]),
}

impl Bytes<'_> {
    fn len(&self) -> u64 {
        match self {
            Bytes::Staged(_, region) => region.len,
            Bytes::Inline(bytes) => bytes.len() as u64,
        }
    }

    fn check(&self) -> Result<(), Code> {
        match self {
            Bytes::Staged(map, region) => map
                .check(region.offset, region.len)
                .map_err(|_| Code::Staging),
            Bytes::Inline(_) => Ok(()),
        }
    }

    fn read(&self, at: u64, to: &mut [u8]) -> Result<(), Code> {
        match self {
            Bytes::Staged(map, region) => map
                .read_into(region.offset + at, to)
                .map_err(|_| Code::Staging),
            Bytes::Inline(bytes) => {
                to.copy_from_slice(&bytes[at as usize..at as usize + to.len()]);
                Ok(())
            }
        }
    }
}

/// Size of a row-major value in bytes.
pub fn bytes_of(meta: &Meta) -> u64 {
    meta.shape.count() * meta.dtype.size() as u64
}

/// A bool is 0 or 1, whatever a client wrote.
fn normalise(dtype: DType, bytes: &mut [u8]) {
    if CHECKED && dtype == DType::Bool {
        for byte in bytes {
            *byte = u8::from(*byte != 0);
        }
    }
}

/// Whose memory it is.
pub type Owner<'a> = (TenantId, &'a Rc<Account>);

/// A value that came from a client, and for a constant what its request waits for.
pub type Uploaded = (Rc<Value>, Option<Ticket>);

impl Device {
    /// A value with these bytes.
    pub fn upload(
        &mut self,
        owner: Owner<'_>,
        meta: Meta,
        constant: bool,
        bytes: &Bytes<'_>,
    ) -> Result<Uploaded, Code> {
        let len = bytes_of(&meta);
        if len != bytes.len() {
            return Err(Code::Shape);
        }
        bytes.check()?;
        if constant {
            return self.constant(owner, meta, |to| {
                bytes.read(0, to)?;
                normalise(meta.dtype, to);
                Ok(())
            });
        }
        let block = self.memory.alloc_aside(&mut *self.backend, owner, len)?;
        self.fill(&block, meta.dtype, 0, bytes)?;
        Ok((Value::new(meta, State::Ready(block)), None))
    }

    /// A value that is written in pieces; it starts out zero.
    pub fn begin(
        &mut self,
        owner: Owner<'_>,
        meta: Meta,
        constant: bool,
    ) -> Result<Rc<Value>, Code> {
        let block = self
            .memory
            .alloc_aside(&mut *self.backend, owner, bytes_of(&meta))?;
        self.memory
            .zero(&mut *self.backend, &block)
            .map_err(|_| Code::DeviceFault)?;
        let value = Value::new(meta, State::Building(block));
        value.constant.set(constant);
        Ok(value)
    }

    /// A piece of a value begun.
    pub fn write(&mut self, value: &Value, at: u64, bytes: &Bytes<'_>) -> Result<(), Code> {
        let block = value.building().ok_or(Code::BadHandle)?;
        let size = bytes_of(&value.meta);
        if at > size || bytes.len() > size - at {
            return Err(Code::Attribute);
        }
        bytes.check()?;
        self.fill(&block, value.meta.dtype, at, bytes)
    }

    /// The end of a value begun.
    pub fn seal(&mut self, owner: Owner<'_>, value: &Rc<Value>) -> Result<Option<Ticket>, Code> {
        let block = value.building().ok_or(Code::BadHandle)?;
        if !value.constant.get() {
            value.set(State::Ready(block));
            return Ok(None);
        }
        let bytes = bytes_of(&value.meta);
        let mut pieces = Vec::with_capacity(bytes as usize);
        self.memory
            .read(&mut *self.backend, &block, (0, bytes), &mut |_, piece| {
                pieces.extend_from_slice(piece)
            })
            .map_err(|_| Code::DeviceFault)?;
        let (sealed, pending) = self.sealed(owner, bytes, |to| {
            to.copy_from_slice(&pieces);
            Ok(())
        })?;
        *value.charge.borrow_mut() = Some(Reference::new(owner.1, &sealed.payers, bytes)?);
        value.set(State::Ready(Rc::clone(&sealed)));
        Ok(self.constants.share(value, &sealed, pending))
    }

    /// A constant that the tenant holds already.
    pub fn bind(
        &mut self,
        owner: Owner<'_>,
        meta: Meta,
        hash: [u8; 32],
    ) -> Result<Rc<Value>, Code> {
        let bytes = bytes_of(&meta);
        let block = self
            .constants
            .find(&(owner.0, hash), bytes)
            .ok_or(Code::NotHeld)?;
        let charge = Reference::new(owner.1, &block.payers, bytes)?;
        self.constants.shared_bytes_saved += bytes;
        let value = Value::new(meta, State::Ready(block));
        value.constant.set(true);
        *value.charge.borrow_mut() = Some(charge);
        Ok(value)
    }

    /// Copies bytes of a value to staging.
    pub fn download(
        &mut self,
        block: &Block,
        at: u64,
        map: &StagingMap,
        to: Region,
    ) -> Result<(), Code> {
        if to.len == 0 {
            // A view of nothing may lie anywhere, also beyond its memory.
            return Ok(());
        }
        let mut result = Ok(());
        self.memory
            .read(
                &mut *self.backend,
                block,
                (at, to.len),
                &mut |distance, bytes| {
                    if map.write_from(to.offset + distance, bytes).is_err() {
                        result = Err(Code::Staging);
                    }
                },
            )
            .map_err(|_| Code::DeviceFault)?;
        result
    }

    fn constant(
        &mut self,
        owner: Owner<'_>,
        meta: Meta,
        fill: impl FnOnce(&mut [u8]) -> Result<(), Code>,
    ) -> Result<Uploaded, Code> {
        let bytes = bytes_of(&meta);
        // Before anything is copied.
        drop(Charge::reference(owner.1, bytes)?);
        let (block, pending) = self.sealed(owner, bytes, fill)?;
        let charge = Reference::new(owner.1, &block.payers, bytes)?;
        let value = Value::new(meta, State::Ready(Rc::clone(&block)));
        value.constant.set(true);
        *value.charge.borrow_mut() = Some(charge);
        let ticket = self.constants.share(&value, &block, pending);
        Ok((value, ticket))
    }

    fn sealed(
        &mut self,
        owner: Owner<'_>,
        bytes: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<(), Code>,
    ) -> Result<(Rc<Block>, PendingConstant), Code> {
        self.constants
            .create((&mut self.memory, &mut *self.backend), owner, bytes, fill)
    }

    fn fill(
        &mut self,
        block: &Block,
        dtype: DType,
        at: u64,
        bytes: &Bytes<'_>,
    ) -> Result<(), Code> {
        let mut result = Ok(());
        self.memory
            .write(
                &mut *self.backend,
                block,
                (at, bytes.len()),
                &mut |distance, to| {
                    for (k, piece) in to.chunks_mut(PIECE_BYTES).enumerate() {
                        let from = distance + (k * PIECE_BYTES) as u64;
                        match bytes.read(from, piece) {
                            Ok(()) => normalise(dtype, piece),
                            Err(code) => result = Err(code),
                        }
                    }
                },
            )
            .map_err(|_| Code::DeviceFault)?;
        result
    }
}
