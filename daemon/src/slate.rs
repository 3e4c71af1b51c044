//! Whose work an engine runs at this moment, written where it outlives the engine: who may be to blame for its end.
//!
//! The supervisor makes the slate and gives it to the engine, which writes one word. What a fault of the engine finds there is
//! blamed; work of several sessions at once blames nobody, and neither does an end that came from outside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tensord_shm::segment::create_staging;
use tensord_shm::staging::StagingMap;

use crate::engine_process::SessionId;

const BYTES: u64 = 4096;
const NOBODY: u64 = 0;
const SEVERAL: u64 = u64::MAX;

/// Whose work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Running {
    /// Nobody's.
    #[default]
    Nothing,
    /// One session's.
    Of(SessionId),
    /// That of several sessions.
    Several,
}

impl Running {
    /// Both at once.
    pub fn and(self, other: Running) -> Running {
        match (self, other) {
            (Running::Nothing, one) | (one, Running::Nothing) => one,
            (one, another) if one == another => one,
            _ => Running::Several,
        }
    }
}

/// One word of shared memory.
pub struct Slate {
    map: StagingMap,
    written: Running,
}

impl Slate {
    /// A clean slate, and the file descriptor by which the engine gets it.
    pub fn create() -> io::Result<(Slate, OwnedFd)> {
        let fd = create_staging(BYTES).map_err(io::Error::other)?;
        Ok((Slate::map(fd.as_fd())?, fd))
    }

    /// The slate behind a file descriptor.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Slate> {
        Ok(Slate {
            map: StagingMap::map(fd, BYTES).map_err(io::Error::other)?,
            written: Running::Nothing,
        })
    }

    /// Writes whose work runs from here on.
    pub fn write(&mut self, running: Running) {
        if running == self.written {
            return;
        }
        self.written = running;
        let word = match running {
            Running::Nothing => NOBODY,
            Running::Of(SessionId(session)) => session,
            Running::Several => SEVERAL,
        };
        // The word lies inside the page: there is nothing that could fail.
        let _ = self.map.write_from(0, &word.to_ne_bytes());
    }

    /// Whose work ran when it was last written.
    pub fn read(&self) -> Running {
        let mut word = [0; 8];
        if self.map.read_into(0, &mut word).is_err() {
            return Running::Nothing;
        }
        match u64::from_ne_bytes(word) {
            NOBODY => Running::Nothing,
            SEVERAL => Running::Several,
            session => Running::Of(SessionId(session)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_reads_what_was_written_last() {
        let (supervisors, fd) = Slate::create().expect("memory for one page");
        let mut engines = Slate::map(fd.as_fd()).expect("the same page");
        assert_eq!(supervisors.read(), Running::Nothing);
        let one = Running::Of(SessionId(7));
        for running in [
            one,
            one.and(Running::Of(SessionId(8))),
            one.and(one),
            Running::Nothing,
        ] {
            engines.write(running);
            assert_eq!(supervisors.read(), running);
        }
        assert_eq!(one.and(Running::Of(SessionId(8))), Running::Several);
        assert_eq!(one.and(Running::Nothing), one);
    }
}
