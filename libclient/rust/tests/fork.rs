//! A forked child uses nothing of its parent's, may use its constants, and opens a default session of its own; while
//! another thread of the parent holds the locks that the child inherits.

mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fake::FakeDaemon;
use tensord_client::{
    Code, DType, Elementwise, Meta, Operand, Session, Shape, Site, Tensor, default_session,
    set_default_session,
};

/// What the child does; the number says where it went wrong.
fn child(
    daemon: &FakeDaemon,
    parents: &Session,
    plain: Tensor,
    constant: Tensor,
) -> Result<(), i32> {
    let bad_handle = |outcome: Result<Tensor, tensord_client::Error>, step| match outcome {
        Err(error) if error.code() == Code::BadHandle => Ok(error),
        _ => Err(step),
    };
    bad_handle(plain.unary(Elementwise::Neg), 10)?;
    match plain.wait() {
        Err(error) if error.code() == Code::BadHandle => {}
        _ => return Err(11),
    }
    if parents.is_open() || parents.synchronize().is_ok() || parents.stat().is_ok() {
        return Err(12);
    }
    let own = default_session(|| daemon.options()).map_err(|_| 13)?;
    if own.info().welcome.limits.handles != 200 {
        return Err(14);
    }
    let error = bad_handle(
        own.elementwise(Elementwise::Neg, &[Operand::Tensor(&plain)], Site::UNKNOWN),
        15,
    )?;
    if !error.message().contains("fork()") {
        return Err(16);
    }
    for _ in 0..3 {
        let operands = [Operand::Tensor(&constant), Operand::Tensor(&constant)];
        let sum = own
            .elementwise(Elementwise::Add, &operands, Site::UNKNOWN)
            .map_err(|_| 17)?;
        sum.wait().map_err(|_| 18)?;
    }
    let fetched = own.fetch(&constant, Site::UNKNOWN).map_err(|_| 19)?;
    if fetched.iter().any(|byte| *byte != 5) || fetched.len() != 3000 {
        return Err(20);
    }
    let negative = constant.unary(Elementwise::Neg).map_err(|_| 24)?;
    if negative.session().info().welcome.session != own.info().welcome.session {
        return Err(25);
    }
    constant.wait().map_err(|_| 26)?;
    let again = default_session(|| unreachable!("it is open")).map_err(|_| 21)?;
    if again.info().welcome.session != own.info().welcome.session {
        return Err(22);
    }
    drop((fetched, negative, plain, constant));
    own.synchronize().map_err(|_| 23)
}

#[test]
fn a_child_touches_nothing_of_its_parent() {
    let daemon = FakeDaemon::start("fork", 64);
    let session = Session::connect(daemon.options()).expect("it listens");
    set_default_session(Some(session.clone()));
    let meta = Meta {
        dtype: DType::U8,
        shape: Shape::new(&[3000]).expect("small"),
    };
    let constant = session
        .constant(&[5; 3000], meta, Site::UNKNOWN)
        .expect("it fits");
    let plain = session.tensor(&[1.0f32; 8], &[8]).expect("it fits");
    session.synchronize().expect("nothing fails");

    let stop = Arc::new(AtomicBool::new(false));
    let busy = std::thread::spawn({
        let (session, stop) = (session.clone(), Arc::clone(&stop));
        move || {
            let mut x = session.tensor(&[1.0f32; 8], &[8]).expect("it fits");
            while !stop.load(Ordering::Relaxed) {
                x = x.unary(Elementwise::Neg).expect("it fits");
                Site::intern("busy.py", 3);
            }
        }
    });
    for _ in 0..30 {
        // SAFETY: the child calls only what this test is about and ends by _exit.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                child(&daemon, &session, plain.clone(), constant.clone())
            }));
            let code = match done {
                Ok(Ok(())) => 0,
                Ok(Err(step)) => step,
                Err(_) => 99,
            };
            // SAFETY: ends the child at once, without the parent's destructors.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: waits for the child just made; `status` is writable.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "the child ended with {status:#x}: step {}",
            libc::WEXITSTATUS(status)
        );
    }
    stop.store(true, Ordering::Relaxed);
    busy.join().expect("it never fails");
    assert_eq!(plain.to_vec::<f32>().expect("still there"), [1.0; 8]);
    assert!(constant.binary(Elementwise::Add, &constant).is_ok());
    session.synchronize().expect("nothing fails");
    set_default_session(None);
    daemon.check();
}
