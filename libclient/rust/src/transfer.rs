//! Values in and out: inside a record, through staging in one piece, or in pieces where they are larger than staging
//! should be.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

use tensord_shm::error::Code;
use tensord_shm::handle::Handle;
use tensord_shm::layout::Shape;
use tensord_shm::op::Meta;
use tensord_shm::private::PrivateMemory;
use tensord_shm::record::{INLINE_BYTES_MAX, Request, opcode};

use crate::element::{Element, read_all, write_all};
use crate::error::Error;
use crate::lane::Lane;
use crate::ring::Mark;
use crate::session::Session;
use crate::site::Site;
use crate::staging::Staged;
use crate::tensor::Tensor;

/// Values up to this size cross staging in one piece.
const WHOLE_BYTES_MAX: u64 = 16 << 20;
/// Larger ones in pieces of this size, of which several are in transit.
const PIECE_BYTES: u64 = 4 << 20;
/// Pieces of a download that are asked for before the first of them has come.
const PIECES_AHEAD: usize = 3;

/// Where the bytes of an upload come from.
trait Source {
    /// Writes the bytes from `at` on.
    fn fill(&self, at: usize, to: &mut [u8]);
}

impl Source for &[u8] {
    fn fill(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self[at..at + to.len()]);
    }
}

struct Elements<'a, T>(&'a [T]);

impl<T: Element> Source for Elements<'_, T> {
    fn fill(&self, at: usize, to: &mut [u8]) {
        // Pieces are multiples of every element size.
        let size = T::DTYPE.size();
        write_all(&self.0[at / size..(at + to.len()) / size], to);
    }
}

/// The bytes of a downloaded value, row-major. Small and medium values lie in staging, without a copy; their
/// memory returns when this is dropped.
pub struct Fetched {
    meta: Meta,
    bytes: Bytes,
    /// Keeps the session, whose memory it is.
    session: Session,
}

enum Bytes {
    /// `None` only while it is dropped.
    Staged(Option<Staged>),
    Own(PrivateMemory),
}

impl Fetched {
    /// Dtype and shape.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Is it in memory of this process alone? What is not takes from the session's staging as long as it lives.
    pub fn is_own(&self) -> bool {
        matches!(self.bytes, Bytes::Own(_))
    }

    /// The elements, copied.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, Error> {
        check_element::<T>(&self.meta)?;
        Ok(read_all(self))
    }
}

impl Deref for Fetched {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Staged(staged) => staged.as_ref().map_or(&[], Staged::bytes),
            Bytes::Own(memory) => memory.as_slice(),
        }
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if let Bytes::Staged(staged) = &mut self.bytes
            && self.session.lane().is_foreign()
        {
            // The arena's books are the parent process's.
            std::mem::forget(staged.take());
        }
    }
}

fn check_element<T: Element>(meta: &Meta) -> Result<(), Error> {
    match T::DTYPE == meta.dtype {
        true => Ok(()),
        false => Err(Error::new(
            Code::DTypes,
            format!(
                "a tensor of {} cannot be read or written as {}: cast it first",
                meta.dtype,
                T::DTYPE
            ),
        )),
    }
}

fn shape_of(sizes: &[u64]) -> Result<Shape, Error> {
    Shape::new(sizes).ok_or_else(|| {
        Error::new(
            Code::Shape,
            format!("shape {sizes:?}: at most 12 axes and 2^48 elements"),
        )
    })
}

fn byte_count(meta: &Meta) -> u64 {
    meta.shape.count() * meta.dtype.size() as u64
}

fn check_length(meta: &Meta, have: u64) -> Result<(), Error> {
    match byte_count(meta) {
        want if want == have => Ok(()),
        want => Err(Error::new(
            Code::Shape,
            format!(
                "{have} bytes given for a tensor of {} {}, which has {want}",
                meta.dtype, meta.shape
            ),
        )),
    }
}

impl Session {
    /// A tensor with these row-major bytes.
    pub fn upload(&self, bytes: &[u8], meta: Meta, site: Site) -> Result<Tensor, Error> {
        check_length(&meta, bytes.len() as u64)?;
        self.lane().upload(&bytes, meta, None, site)
    }

    /// A tensor with these row-major elements.
    pub fn tensor<T: Element>(&self, elements: &[T], shape: &[u64]) -> Result<Tensor, Error> {
        let meta = Meta {
            dtype: T::DTYPE,
            shape: shape_of(shape)?,
        };
        check_length(&meta, std::mem::size_of_val(elements) as u64)?;
        self.lane()
            .upload(&Elements(elements), meta, None, Site::UNKNOWN)
    }

    /// A tensor that is shared by content: the daemon holds equal bytes of a tenant once. It outlives an engine
    /// and may be used in forked children. Waits for the daemon to say whether it has the bytes already.
    pub fn constant(&self, bytes: &[u8], meta: Meta, site: Site) -> Result<Tensor, Error> {
        check_length(&meta, bytes.len() as u64)?;
        let hash = *blake3::hash(bytes).as_bytes();
        if bytes.len() > INLINE_BYTES_MAX
            && let Some(held) = self.lane().bind(meta, hash, site)?
        {
            return Ok(held);
        }
        self.lane().upload(&bytes, meta, Some(hash), site)
    }

    /// The constant with this BLAKE3 hash of row-major bytes, if the daemon holds it for this tenant.
    pub fn bind(&self, hash: [u8; 32], meta: Meta, site: Site) -> Result<Option<Tensor>, Error> {
        self.lane().bind(meta, hash, site)
    }

    /// Downloads a tensor through this queue.
    pub fn fetch(&self, tensor: &Tensor, site: Site) -> Result<Fetched, Error> {
        let tensor = self.lane().bring(tensor, site)?;
        let bytes = self
            .lane()
            .download(&tensor, site)
            .map_err(|error| error.with_result(*tensor.meta()))?;
        Ok(Fetched {
            meta: *tensor.meta(),
            bytes,
            session: self.clone(),
        })
    }
}

impl Tensor {
    /// Downloads the value, waiting for it.
    pub fn fetch(&self) -> Result<Fetched, Error> {
        self.acting()?.fetch(self, Site::UNKNOWN)
    }

    /// Downloads the value as elements.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, Error> {
        check_element::<T>(self.meta())?;
        self.fetch()?.to_vec()
    }

    /// Downloads the only element.
    pub fn item<T: Element>(&self) -> Result<T, Error> {
        match self.to_vec::<T>()?.as_slice() {
            [one] => Ok(*one),
            all => Err(Error::new(
                Code::Shape,
                format!(
                    "item() of a tensor of shape {} with {} elements; it takes exactly one",
                    self.shape(),
                    all.len()
                ),
            )),
        }
    }
}

impl Lane {
    /// The constant of this content, if the daemon has it. Waits for the answer.
    fn bind(
        self: &Arc<Self>,
        meta: Meta,
        hash: [u8; 32],
        site: Site,
    ) -> Result<Option<Tensor>, Error> {
        let epoch = self.state.epoch();
        let build = |out| Request::Bind { out, meta, hash };
        let (out, mark) = self.define_name(&build, opcode::BIND, site, epoch)?;
        let tensor = Tensor::new(self, out, mark, meta, Some(hash));
        match self.wait(mark, None) {
            Ok(()) => Ok(Some(tensor)),
            Err(error) if error.code() == Code::NotHeld => {
                self.lock()?.forgive(mark.value);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn upload(
        self: &Arc<Self>,
        source: &dyn Source,
        meta: Meta,
        hash: Option<[u8; 32]>,
        site: Site,
    ) -> Result<Tensor, Error> {
        let constant = hash.is_some();
        let len = byte_count(&meta);
        let epoch = self.state.epoch();
        if len <= INLINE_BYTES_MAX as u64 {
            let mut bytes = [0u8; INLINE_BYTES_MAX];
            let bytes = &mut bytes[..(len as usize).next_multiple_of(8)];
            source.fill(0, &mut bytes[..len as usize]);
            let words = bytes
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("chunks of eight")));
            let words: Vec<u64> = words.collect();
            let build = |out| Request::UploadInline {
                out,
                meta,
                constant,
                words: words.clone(),
            };
            let (out, mark) = self.define_name(&build, opcode::UPLOAD_INLINE, site, epoch)?;
            return Ok(Tensor::new(self, out, mark, meta, hash));
        }
        if len > WHOLE_BYTES_MAX {
            return self.upload_in_pieces(source, meta, hash, site);
        }
        let mut staged = self.stage(len)?;
        source.fill(0, staged.bytes_mut());
        let from = staged.wire();
        let build = |out| Request::Upload {
            out,
            meta,
            constant,
            from,
        };
        // Staging may have waited for room, and an engine may have ended meanwhile: the region is good in any epoch.
        let epoch = self.state.epoch();
        let (out, mark) = self.define_name(&build, opcode::UPLOAD, site, epoch)?;
        self.keep_region(mark, staged);
        Ok(Tensor::new(self, out, mark, meta, hash))
    }

    fn upload_in_pieces(
        self: &Arc<Self>,
        source: &dyn Source,
        meta: Meta,
        hash: Option<[u8; 32]>,
        site: Site,
    ) -> Result<Tensor, Error> {
        let constant = hash.is_some();
        let epoch = self.state.epoch();
        let build = |out| Request::UploadBegin {
            out,
            meta,
            constant,
        };
        let (to, mark) = self.define_name(&build, opcode::UPLOAD_BEGIN, site, epoch)?;
        // From here on the name is released whatever happens.
        let tensor = Tensor::new(self, to, mark, meta, hash);
        let len = byte_count(&meta);
        let mut at = 0;
        while at < len {
            let piece = PIECE_BYTES.min(len - at);
            let mut staged = self.stage(piece)?;
            source.fill(at as usize, staged.bytes_mut());
            let from = staged.wire();
            let request = Request::UploadWrite { to, at, from };
            let written = self.push(&request, opcode::UPLOAD_WRITE, site, epoch)?;
            self.keep_region(written, staged);
            at += piece;
        }
        let sealed = self.push(
            &Request::UploadSeal { to },
            opcode::UPLOAD_SEAL,
            site,
            epoch,
        )?;
        tensor.rebind(to, sealed);
        Ok(tensor)
    }

    fn keep_region(&self, mark: Mark, staged: Staged) {
        let mut ring = self.state.ring();
        if ring.epoch == mark.epoch {
            ring.keep_region(mark.value, staged);
        }
    }

    fn download(&self, tensor: &Tensor, site: Site) -> Result<Bytes, Error> {
        let len = tensor.byte_count();
        let (of, epoch) = (tensor.handle(), tensor.epoch());
        if len <= WHOLE_BYTES_MAX {
            let (staged, mark) = self.ask_for(of, (0, len), site, epoch)?;
            return match self.wait(mark, None) {
                Ok(()) => Ok(Bytes::Staged(Some(staged))),
                Err(error) => {
                    // Where the wait broke off, the engine may still write there.
                    self.keep_region(mark, staged);
                    Err(error)
                }
            };
        }
        let memory = usize::try_from(len).ok().map(PrivateMemory::new);
        let Some(Ok(mut memory)) = memory else {
            return Err(too_large(len));
        };
        let mut asked = VecDeque::new();
        let done = self.download_pieces((of, len, epoch), &mut memory, site, &mut asked);
        for (staged, mark) in asked {
            self.keep_region(mark, staged);
        }
        done.map(|()| Bytes::Own(memory))
    }

    /// Asks for pieces some way ahead, so that the engine copies one while another is copied here. What was asked for and not
    /// taken when this fails stays in `asked`.
    fn download_pieces(
        &self,
        (of, len, epoch): (Handle, u64, u32),
        to: &mut PrivateMemory,
        site: Site,
        asked: &mut VecDeque<(Staged, Mark)>,
    ) -> Result<(), Error> {
        let mut from = 0;
        let pieces = to.as_mut_slice().chunks_mut(PIECE_BYTES as usize);
        for piece in pieces {
            while from < len && asked.len() < PIECES_AHEAD {
                let size = PIECE_BYTES.min(len - from);
                match self.ask_for(of, (from, size), site, epoch) {
                    Ok(more) => asked.push_back(more),
                    // Room for fewer pieces will do.
                    Err(error) if error.code() == Code::Limit && !asked.is_empty() => break,
                    Err(error) => return Err(error),
                }
                from += size;
            }
            if let Some((_, mark)) = asked.front() {
                self.wait(*mark, None)?;
            }
            if let Some((staged, _)) = asked.pop_front() {
                piece.copy_from_slice(staged.bytes());
            }
        }
        Ok(())
    }

    /// Asks for a part of a value in staging.
    fn ask_for(
        &self,
        of: Handle,
        (at, len): (u64, u64),
        site: Site,
        epoch: u32,
    ) -> Result<(Staged, Mark), Error> {
        let staged = self.stage(len)?;
        let to = staged.wire();
        let request = Request::Download { of, at, to };
        let mark = self.push(&request, opcode::DOWNLOAD, site, epoch)?;
        Ok((staged, mark))
    }
}

fn too_large(len: u64) -> Error {
    Error::new(
        Code::OutOfMemory,
        format!("a value of {len} bytes does not fit this process's memory"),
    )
}
