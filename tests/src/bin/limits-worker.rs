//! A process that holds device memory as it is told: `limits-worker SOCKET`, then one command a line.
//!
//! `upload BYTES`, `drop NUMBER`, `double NUMBER`, `reconnect`, `fork BYTES COUNT` (a child with a session of its own holds up to
//! COUNT values of BYTES), `reap` (the child ends). Each is answered by `ok HELD` or `refused CODE HELD TEXT`, where HELD are
//! the bytes of all values that exist here and in the child. It ends with its input.

#![deny(unsafe_op_in_unsafe_fn)]

use std::io::{BufRead, Read, Write};
use std::os::fd::OwnedFd;

use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe};
use tensord_client::{Elementwise, Error, Options, Session, Tensor};

struct Worker {
    socket: String,
    session: Session,
    held: Vec<Tensor>,
    child: Option<Child>,
}

struct Child {
    pid: Pid,
    held: u64,
    /// Closed when it is to end.
    leash: OwnedFd,
}

fn connect(socket: &str) -> Result<Session, Error> {
    Session::connect(Options {
        socket: Some(socket.into()),
        autostart: false,
        ..Options::default()
    })
}

fn upload(session: &Session, bytes: u64) -> Result<Tensor, Error> {
    let tensor = session.tensor(&vec![1u8; bytes as usize], &[bytes])?;
    tensor.wait()?;
    Ok(tensor)
}

impl Worker {
    fn held(&self) -> u64 {
        let own: u64 = self.held.iter().map(Tensor::byte_count).sum();
        own + self.child.as_ref().map_or(0, |child| child.held)
    }

    fn obey(&mut self, words: &[&str]) -> Result<(), Error> {
        let number = |at: usize| -> u64 { words[at].parse().expect("a number") };
        let some = |held: &Vec<Tensor>, at: u64| at as usize % held.len().max(1);
        match words[0] {
            "upload" => {
                let tensor = upload(&self.session, number(1))?;
                self.held.push(tensor);
            }
            "drop" if !self.held.is_empty() => {
                drop(self.held.swap_remove(some(&self.held, number(1))));
                self.session.synchronize()?;
                // What was released lies in the ring until something is published.
                self.session.wait(self.session.no_op()?, None)?;
            }
            "double" if !self.held.is_empty() => {
                let of = &self.held[some(&self.held, number(1))];
                let double = of.scalar(Elementwise::Add, 1.0)?;
                double.wait()?;
                self.held.push(double);
            }
            "reconnect" => {
                self.held.clear();
                self.session.close()?;
                self.session = connect(&self.socket)?;
            }
            "fork" if self.child.is_none() => {
                self.child = Some(self.fork(number(1), number(2)));
            }
            "reap" => {
                if let Some(child) = self.child.take() {
                    drop(child.leash);
                    waitpid(child.pid, None).expect("a child of this process");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn fork(&self, bytes: u64, count: u64) -> Child {
        let (told, tell) = pipe().expect("two descriptors");
        let (leash_end, leash) = pipe().expect("two descriptors");
        // SAFETY: this process has one thread, so the child may do what its parent might.
        match unsafe { fork() }.expect("a process") {
            ForkResult::Parent { child } => {
                drop((tell, leash_end));
                let mut held = String::new();
                let read = std::fs::File::from(told).read_to_string(&mut held);
                read.expect("the child says what it holds");
                Child {
                    pid: child,
                    held: held.parse().expect("a number"),
                    leash,
                }
            }
            ForkResult::Child => {
                drop((told, leash));
                let session = connect(&self.socket);
                let held: Vec<Tensor> = match &session {
                    Ok(session) => (0..count)
                        .map_while(|_| upload(session, bytes).ok())
                        .collect(),
                    Err(_) => Vec::new(),
                };
                let sum: u64 = held.iter().map(Tensor::byte_count).sum();
                let mut tell = std::fs::File::from(tell);
                tell.write_all(sum.to_string().as_bytes())
                    .expect("the parent listens");
                drop(tell);
                let mut end = Vec::new();
                // The parent's end closes it, whether on purpose or not.
                let _ = std::fs::File::from(leash_end).read_to_end(&mut end);
                std::process::exit(0);
            }
        }
    }
}

fn main() -> Result<(), Error> {
    let socket = std::env::args().nth(1).expect("limits-worker SOCKET");
    let session = connect(&socket)?;
    let mut worker = Worker {
        socket,
        session,
        held: Vec::new(),
        child: None,
    };
    println!("ok 0");
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text");
        let words: Vec<&str> = line.split_whitespace().collect();
        match worker.obey(&words) {
            Ok(()) => println!("ok {}", worker.held()),
            Err(error) => println!("refused {} {} {error}", error.code().name(), worker.held()),
        }
    }
    Ok(())
}
