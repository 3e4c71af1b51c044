//! A connection ends with its last session, queue and tensor, in whatever order and on whatever thread they go.

use tensord_client::{Elementwise, Session, Tensor};
use tensord_tests::daemon::{Daemon, eventually};

/// Tensors made and dropped before, so that their memory is kept for the next ones.
fn used(session: &Session) -> Tensor {
    let x = session.tensor(&[1.0f32; 16], &[16]).expect("room");
    let mut y = x.clone();
    for _ in 0..600 {
        y = y.scalar(Elementwise::Add, 1.0).expect("room");
    }
    let many: Vec<Tensor> = (0..600)
        .map(|k| x.scalar(Elementwise::Mul, f64::from(k)).expect("room"))
        .collect();
    drop(many);
    y
}

fn nobody_is_left(daemon: &Daemon, what: &str) {
    eventually(what, || (daemon.session_count() == 0).then_some(()));
}

#[test]
fn with_the_session_or_with_a_tensor() {
    let daemon = Daemon::start("last-holder", "");

    let session = daemon.session();
    let tensor = used(&session);
    drop(tensor);
    drop(session);
    nobody_is_left(&daemon, "the session went last");

    let session = daemon.session();
    let tensor = used(&session);
    drop(session);
    assert_eq!(tensor.to_vec::<f32>().expect("a result"), [601.0; 16]);
    drop(tensor);
    nobody_is_left(&daemon, "the tensor went last");

    let session = daemon.session();
    let queue = session.queue().expect("a queue");
    let tensor = used(&queue);
    drop((session, queue));
    let clone = tensor.clone();
    drop(tensor);
    assert_eq!(daemon.session_count(), 1, "a clone holds it");
    drop(clone);
    nobody_is_left(&daemon, "the tensor of a further queue went last");
    daemon.stop();
}

#[test]
fn on_many_threads_at_once() {
    let daemon = Daemon::start("last-holders", "");
    for _ in 0..50 {
        let session = daemon.session();
        let tensors: Vec<Tensor> = (0..4).map(|_| used(&session)).collect();
        std::thread::scope(|scope| {
            for tensor in tensors {
                scope.spawn(move || drop(tensor));
            }
            scope.spawn(move || drop(session));
        });
    }
    nobody_is_left(&daemon, "all went at once");
    daemon.stop();
}
