//! The client against the real daemon: values, failures, and the deaths of engine, broker and daemon.
//!
//! The daemon is `TENSORD_BIN`, or `tensord` in the folder of this build.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tensord_client::{
    Code, DType, Distribution, Element, Elementwise, Meta, Operand, Options, Reduction, Session,
    Shape, Site, Tensor,
};

fn build_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a test has a path");
    // target/PROFILE/deps/end_to_end-HASH
    let folder = program.ancestors().nth(2).expect("two folders down");
    folder.to_owned()
}

fn daemon_program() -> PathBuf {
    let beside = build_folder().join("tensord");
    let program = std::env::var_os("TENSORD_BIN").map_or(beside, PathBuf::from);
    assert!(
        program.is_file(),
        "{} is missing: cargo build -p tensord-daemon, or set TENSORD_BIN",
        program.display()
    );
    program
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("tensord-e2e-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Daemon {
    child: Child,
    socket: PathBuf,
    _folder: Folder,
}

impl Daemon {
    fn start(name: &str) -> Daemon {
        let folder = Folder::new(name);
        let socket = folder.0.join("tensord.sock");
        let child = Command::new(daemon_program())
            .arg("--socket")
            .arg(&socket)
            .args(["--log", "warn"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Daemon {
            child,
            socket,
            _folder: folder,
        }
    }

    fn options(&self) -> Options {
        Options {
            socket: Some(self.socket.clone()),
            ..Options::default()
        }
    }

    /// Connects as soon as it accepts.
    fn session(&self) -> Session {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match Session::connect(self.options()) {
                Ok(session) => return session,
                Err(error) if error.code() == Code::DaemonLost && Instant::now() < until => {
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The pid of the child process with this role.
    fn child_with_role(&self, role: &str) -> Option<i32> {
        processes()
            .into_iter()
            .find(|(_, parent, command)| {
                *parent == self.child.id() as i32
                    && command.windows(2).any(|w| w == ["--role", role])
            })
            .map(|(pid, _, _)| pid)
    }

    fn kill(&self, role: &str) -> i32 {
        let pid = self.child_with_role(role).expect("it runs");
        let victim = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).unwrap();
        pid
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pid, parent and command line of every process that can be seen.
fn processes() -> Vec<(i32, i32, Vec<String>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let path = entry.path();
        let (Ok(stat), Ok(command)) = (
            std::fs::read_to_string(path.join("stat")),
            std::fs::read_to_string(path.join("cmdline")),
        ) else {
            continue;
        };
        let after_name = stat.rsplit(')').next().unwrap_or("");
        let parent = after_name.split_whitespace().nth(1);
        let parent = parent.and_then(|p| p.parse().ok()).unwrap_or(0);
        found.push((
            pid,
            parent,
            command.split('\0').map(str::to_owned).collect(),
        ));
    }
    found
}

fn meta(dtype: DType, sizes: &[u64]) -> Meta {
    Meta {
        dtype,
        shape: Shape::new(sizes).unwrap(),
    }
}

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn a_chain_submitted_one_by_one_has_the_bits_of_plain_rust() {
    let daemon = Daemon::start("chain");
    let session = daemon.session();
    for count in [1usize, 7, 64, 1000, 1024, 5000, 100_000] {
        let (xs, ys) = (numbers(count, 1), numbers(count, 2));
        let x = session.tensor(&xs, &[count as u64]).unwrap();
        let y = session.tensor(&ys, &[count as u64]).unwrap();
        let (mut z, mut zs) = (x.clone(), xs.clone());
        for step in 0..64 {
            z = match step % 4 {
                0 => z.scalar(Elementwise::Mul, 1.0001).unwrap(),
                1 => z.binary(Elementwise::Add, &y).unwrap(),
                2 => z.unary(Elementwise::Neg).unwrap(),
                _ => z.binary(Elementwise::Maximum, &x).unwrap(),
            };
            for (k, value) in zs.iter_mut().enumerate() {
                *value = match step % 4 {
                    0 => *value * 1.0001,
                    1 => *value + ys[k],
                    2 => -*value,
                    _ => value.max(xs[k]),
                };
            }
        }
        let got = z.to_vec::<f32>().unwrap();
        let same = got.iter().zip(&zs).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{count} elements");
    }
}

fn round_trip<T: Element + PartialEq + std::fmt::Debug>(session: &Session, values: &[T]) {
    let tensor = session.tensor(values, &[values.len() as u64]).unwrap();
    assert_eq!(tensor.to_vec::<T>().unwrap(), values);
    let copy = tensor.reshape(&[values.len() as u64, 1]).unwrap();
    assert_eq!(copy.to_vec::<T>().unwrap(), values);
}

#[test]
fn values_of_every_dtype_and_size_come_back() {
    let daemon = Daemon::start("values");
    let session = daemon.session();
    round_trip(&session, &[true, false, true]);
    round_trip(&session, &[i8::MIN, -1, 7]);
    round_trip(&session, &[i16::MIN, -1, 7]);
    round_trip(&session, &[i32::MIN, -1, 7]);
    round_trip(&session, &[i64::MIN, -1, 7]);
    round_trip(&session, &[u8::MAX, 0, 7]);
    round_trip(&session, &[u16::MAX, 0, 7]);
    round_trip(&session, &[u32::MAX, 0, 7]);
    round_trip(&session, &[u64::MAX, 0, 7]);
    round_trip(&session, &[1.5f32, -0.0, f32::INFINITY]);
    round_trip(&session, &[1.5f64, -0.0, f64::INFINITY]);
    round_trip(&session, &[half::f16::from_f32(1.5), half::f16::MAX]);
    round_trip(&session, &[half::bf16::from_f32(1.5), half::bf16::MAX]);
    // Nothing, inside the record, in staging, in pieces.
    for count in [0usize, 200, 201, 300_000, 6 << 20] {
        let values = numbers(count, 3);
        let tensor = session.tensor(&values, &[count as u64]).unwrap();
        assert_eq!(tensor.to_vec::<f32>().unwrap(), values, "{count} elements");
    }
}

#[test]
fn contractions_reductions_views_and_windows_are_right() {
    let daemon = Daemon::start("operations");
    let session = daemon.session();
    let (rows, inner, columns) = (5usize, 300usize, 7usize);
    let (a, b) = (numbers(rows * inner, 4), numbers(inner * columns, 5));
    let ta = session.tensor(&a, &[rows as u64, inner as u64]).unwrap();
    let tb = session.tensor(&b, &[inner as u64, columns as u64]).unwrap();
    let product = ta.contract(&tb, "ik,kj->ij").unwrap();
    let turned = tb.contract(&ta, "kj,ik->ji").unwrap();
    let product = product.to_vec::<f32>().unwrap();
    let turned = turned.permute(&[1, 0]).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(
        product, turned,
        "the order of a sum is a matter of its labels"
    );
    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
        let exact: f64 = (0..inner)
            .map(|k| f64::from(a[row * inner + k]) * f64::from(b[k * columns + column]))
            .sum();
        let got = f64::from(product[row * columns + column]);
        assert!((got - exact).abs() < 1e-4, "{got} and {exact}");
    }
    let sums = ta.reduce(Reduction::Sum, Some(&[1]), false).unwrap();
    let sums = sums.to_vec::<f32>().unwrap();
    for (row, sum) in sums.iter().enumerate() {
        let exact: f64 = a[row * inner..][..inner]
            .iter()
            .map(|&v| f64::from(v))
            .sum();
        assert!((f64::from(*sum) - exact).abs() < 1e-4);
    }
    // A padded one-dimensional convolution: a contraction over a window.
    let (signal, taps) = (numbers(50, 6), numbers(3, 7));
    let ts = session.tensor(&signal, &[50]).unwrap();
    let padded = ts.pad(&[1], &[1], 0.0).unwrap();
    let windows = padded.window(&[0], &[3], &[1], &[1]).unwrap();
    let tt = session.tensor(&taps, &[3]).unwrap();
    let filtered = windows.contract(&tt, "tk,k->t").unwrap();
    let filtered = filtered.to_vec::<f32>().unwrap();
    assert_eq!(filtered.len(), 50);
    for (t, got) in filtered.iter().enumerate() {
        let at = |k: usize| match (t + k).checked_sub(1) {
            Some(index) if index < 50 => f64::from(signal[index]),
            _ => 0.0,
        };
        let exact: f64 = (0..3).map(|k| at(k) * f64::from(taps[k])).sum();
        assert!((f64::from(*got) - exact).abs() < 1e-6);
    }
    let counted = session.iota(10, 3.0, 2.0, DType::I32).unwrap();
    let wanted: Vec<i32> = (0..10).map(|k| 3 + 2 * k).collect();
    assert_eq!(counted.to_vec::<i32>().unwrap(), wanted);
    let back = counted.slice(&[9], &[-3], &[4]).unwrap();
    assert_eq!(back.to_vec::<i32>().unwrap(), [21, 15, 9, 3]);
    let draw = |key| {
        let tensor = session.random(&[1000], DType::F32, Distribution::Uniform, key);
        tensor.unwrap().to_vec::<f32>().unwrap()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn what_does_not_fit_memory_fails_with_the_line_that_asked() {
    let daemon = Daemon::start("memory");
    let session = daemon.session();
    let line = line!() + 1;
    let huge = session.full(&[1 << 46], 1.0, DType::F64).unwrap();
    let sum = huge.scalar(Elementwise::Add, 1.0).unwrap();
    let error = sum.wait().unwrap_err();
    assert_eq!(error.code(), Code::OutOfMemory, "{error}");
    assert!(
        error
            .place()
            .is_some_and(|place| place.line == line || place.line == line + 1),
        "{error}"
    );
    drop((huge, sum));
    let small = session.full(&[3], 2.0, DType::F32).unwrap();
    assert_eq!(small.to_vec::<f32>().unwrap(), [2.0; 3]);
}

#[test]
fn equal_constants_of_two_sessions_are_held_once() {
    let daemon = Daemon::start("constants");
    let (one, two) = (daemon.session(), daemon.session());
    let bytes: Vec<u8> = numbers(50_000, 8)
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    let shape = meta(DType::F32, &[50_000]);
    let hash = *blake3::hash(&bytes).as_bytes();
    assert!(two.bind(hash, shape, Site::UNKNOWN).unwrap().is_none());
    let first = one.constant(&bytes, shape, Site::UNKNOWN).unwrap();
    first.wait().unwrap();
    let second = held(&two, hash, shape);
    assert_eq!(&second.fetch().unwrap()[..], &bytes[..]);
}

/// Waits until the daemon holds a constant: it hashes content aside, after the upload.
fn held(session: &Session, hash: [u8; 32], meta: Meta) -> Tensor {
    let until = Instant::now() + Duration::from_secs(30);
    while Instant::now() < until {
        if let Some(tensor) = session.bind(hash, meta, Site::UNKNOWN).unwrap() {
            return tensor;
        }
        std::thread::yield_now();
    }
    panic!("what was uploaded as a constant is never held");
}

#[test]
fn queues_of_one_session_compute_on_each_others_tensors() {
    let daemon = Daemon::start("queues");
    let session = daemon.session();
    let x = session.tensor(&numbers(1000, 9), &[1000]).unwrap();
    let threads: Vec<_> = (1..4)
        .map(|k| {
            let (queue, x) = (session.queue().unwrap(), x.clone());
            std::thread::spawn(move || {
                let mut y = x;
                for _ in 0..200 {
                    let scale = f64::from(k);
                    let operand = tensord_client::Scalar::from_f64(scale, DType::F32);
                    let operands = [Operand::Tensor(&y), Operand::Immediate(DType::F32, operand)];
                    y = queue
                        .elementwise(Elementwise::Maximum, &operands, Site::UNKNOWN)
                        .unwrap();
                }
                (k, y)
            })
        })
        .collect();
    for thread in threads {
        let (k, y) = thread.join().unwrap();
        let operands = [Operand::Tensor(&y), Operand::Tensor(&x)];
        let sum: Tensor = session
            .elementwise(Elementwise::Sub, &operands, Site::UNKNOWN)
            .unwrap();
        let wanted: Vec<f32> = numbers(1000, 9).iter().map(|v| k as f32 - v).collect();
        assert_eq!(sum.to_vec::<f32>().unwrap(), wanted);
    }
}

#[test]
fn an_engine_that_is_killed_comes_back_with_the_constants() {
    let daemon = Daemon::start("engine");
    let session = daemon.session();
    let bytes: Vec<u8> = numbers(5000, 10)
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    let constant = session
        .constant(&bytes, meta(DType::F32, &[5000]), Site::UNKNOWN)
        .unwrap();
    // From here on it outlives the engine.
    constant.wait().unwrap();
    for _ in 0..3 {
        let plain = session.tensor(&[1.0f32; 500], &[500]).unwrap();
        let sum = constant.binary(Elementwise::Add, &constant).unwrap();
        sum.wait().unwrap();
        let epoch = session.info().epoch;
        daemon.kill("engine");
        // Work goes on being submitted; it ends as lost, and then the new epoch is there.
        let error = loop {
            let step = plain.unary(Elementwise::Neg).and_then(|y| y.wait());
            if let Err(error) = step {
                break error;
            }
        };
        assert_eq!(error.code(), Code::Lost, "{error}");
        assert!(session.info().epoch > epoch);
        let again = constant.binary(Elementwise::Mul, &constant).unwrap();
        let wanted: Vec<f32> = numbers(5000, 10).iter().map(|v| v * v).collect();
        assert_eq!(again.to_vec::<f32>().unwrap(), wanted);
        assert_eq!(sum.wait().unwrap_err().code(), Code::Lost);
    }
}

#[test]
fn every_epoch_is_as_good_as_the_first() {
    let daemon = Daemon::start("epochs");
    let session = daemon.session();
    let other = session.queue().unwrap();
    let mut slowest = Duration::ZERO;
    for round in 0..10u32 {
        let mut x = session.tensor(&[1.0f32; 500], &[500]).unwrap();
        let y = other.tensor(&[1.0f32; 500], &[500]).unwrap();
        y.wait().unwrap();
        daemon.kill("engine");
        let killed = Instant::now();
        let error = loop {
            match x.unary(Elementwise::Neg) {
                Ok(next) => x = next,
                Err(error) => break error,
            }
            if let Err(error) = x.wait() {
                break error;
            }
        };
        assert_eq!(error.code(), Code::Lost, "{error}");
        assert!(error.message().contains("signal 9"), "{error}");
        let error = y
            .unary(Elementwise::Neg)
            .and_then(|z| z.wait())
            .unwrap_err();
        assert_eq!(error.code(), Code::Lost, "{error}");
        assert_eq!(session.info().epoch, other.info().epoch);
        for queue in [&session, &other] {
            let value = f64::from(round);
            queue.full(&[4], value, DType::F32).unwrap().wait().unwrap();
        }
        slowest = slowest.max(killed.elapsed());
    }
    println!("back after {slowest:?} at most");
}

#[test]
fn a_broker_that_is_killed_is_not_noticed() {
    let daemon = Daemon::start("broker");
    let session = daemon.session();
    let mut x = session.tensor(&[0.0f32; 300], &[300]).unwrap();
    let mut steps = 0;
    for round in 0..5 {
        let killed = daemon.kill("broker");
        loop {
            x = x.scalar(Elementwise::Add, 1.0).unwrap();
            x.wait().unwrap();
            steps += 1;
            let now = daemon.child_with_role("broker");
            if now.is_some_and(|now| now != killed) && steps > 20 * round {
                break;
            }
        }
        // Staging and statistics are the broker's business: the new one knows the session.
        assert!(session.stat().unwrap().starts_with('{'));
        assert_eq!(x.to_vec::<f32>().unwrap(), vec![steps as f32; 300]);
    }
}

#[test]
fn a_daemon_that_is_killed_is_an_error_for_every_waiter() {
    let mut daemon = Daemon::start("killed");
    let session = daemon.session();
    let x = session.tensor(&[1.0f32; 500], &[500]).unwrap();
    x.wait().unwrap();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    let error = loop {
        match x.unary(Elementwise::Neg).and_then(|y| y.wait()) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error.code(), Code::DaemonLost | Code::Lost),
        "{error}"
    );
    assert_eq!(session.stat().unwrap_err().code(), Code::DaemonLost);
}

/// The example `hello`, which cargo builds with all tests but not with this one alone.
fn hello_program() -> PathBuf {
    let folder = build_folder();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "tensord-client"]);
    cargo.args(["--example", "hello", "--target-dir"]);
    cargo.arg(folder.parent().expect("a profile lies in a target folder"));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
    assert!(status.unwrap().success(), "{cargo:?}");
    folder.join("examples/hello")
}

/// Runs the example `hello` as a user would, with a folder of its own for sockets.
fn hello(program: &Path, folder: &Path, autostart: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_remove("TENSORD_SOCKET")
        .env("XDG_RUNTIME_DIR", folder)
        .env("TENSORD_DAEMON", daemon_program())
        .env("TENSORD_AUTOSTART", autostart)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn newcomers_start_one_private_daemon_together() {
    let folder = Folder::new("autostart");
    let (program, socket) = (hello_program(), folder.0.join("tensord.sock"));
    let refused = hello(&program, &folder.0, "0").output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("tensord --socket"),
        "{said}"
    );
    let newcomers: Vec<Child> = (0..4)
        .map(|_| hello(&program, &folder.0, "1").spawn().unwrap())
        .collect();
    let outputs: Vec<_> = newcomers
        .into_iter()
        .map(|child| child.wait_with_output().unwrap())
        .collect();
    let daemons: Vec<i32> = processes()
        .into_iter()
        .filter(|(_, _, command)| {
            command.iter().any(|part| Path::new(part) == socket)
                && !command.contains(&"--role".to_owned())
        })
        .map(|(pid, _, _)| pid)
        .collect();
    for pid in &daemons {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(*pid),
            nix::sys::signal::Signal::SIGTERM,
        );
    }
    for output in outputs {
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("0.7615942") && said.contains("0.9640276"),
            "{said}"
        );
    }
    assert_eq!(daemons.len(), 1, "{daemons:?}");
}
