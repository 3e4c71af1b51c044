//! `examples/pipeline.c` is built with the system's C compiler, warnings as errors, and run against the real daemon; and
//! the header is C++ too.
//!
//! Cargo builds no shared library for tests, so this one asks it to. The daemon is `TENSORD_BIN`, or `tensord` in the same
//! folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

fn target_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a test has a path");
    // target/PROFILE/deps/example-HASH
    program
        .ancestors()
        .nth(2)
        .expect("tests lie two folders down")
        .to_owned()
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A daemon of this test's own.
struct Daemon {
    child: Child,
    folder: PathBuf,
}

impl Daemon {
    fn start() -> Daemon {
        let beside = target_folder().join("tensord");
        let program = std::env::var_os("TENSORD_BIN").map_or(beside, PathBuf::from);
        assert!(
            program.is_file(),
            "{} is missing: cargo build -p tensord-daemon, or set TENSORD_BIN",
            program.display()
        );
        let folder = std::env::temp_dir().join(format!("tensord-c-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let child = Command::new(program)
            .arg("--socket")
            .arg(folder.join("tensord.sock"))
            .stdin(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        let daemon = Daemon { child, folder };
        while !daemon.socket().exists() {
            std::thread::yield_now();
        }
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("tensord.sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The folder of the shared library, as new as its source.
fn library_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = target_folder();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "tensord-c", "--target-dir"]);
        cargo.arg(folder.parent().expect("a profile lies in a target folder"));
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        run(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
        folder
    })
}

fn build(compiler: &str, standard: &str, source: &Path, program: &Path) {
    let libraries = library_folder();
    run(Command::new(compiler)
        .args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
        .arg(here("include"))
        .arg(source)
        .arg("-L")
        .arg(libraries)
        .arg(format!("-Wl,-rpath,{}", libraries.display()))
        .args(["-ltensord", "-lm", "-o"])
        .arg(program));
}

#[test]
fn the_example_builds_and_its_result_is_right() {
    let daemon = Daemon::start();
    let program = daemon.folder.join("pipeline");
    build("cc", "-std=c11", &here("examples/pipeline.c"), &program);
    let output = run(Command::new(&program).arg(daemon.socket()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("greatest difference"), "{said}");
}

#[test]
fn the_header_is_cpp_too() {
    let folder = std::env::temp_dir().join(format!("tensord-cpp-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let source = folder.join("header.cpp");
    let text = "#include <tensord.h>\nint main() { return tensord_last_error_code() == TENSORD_OK ? 0 : 1; }\n";
    std::fs::write(&source, text).expect("the folder is writable");
    let program = folder.join("header");
    build("c++", "-std=c++17", &source, &program);
    run(&mut Command::new(&program));
    std::fs::remove_dir_all(&folder).expect("it was made here");
}
