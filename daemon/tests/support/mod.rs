//! A daemon to test, an engine that does nothing well, and a client that speaks the bare protocol.
#![allow(dead_code)]

pub mod client;
pub mod daemon;
pub mod noop;

use std::time::{Duration, Instant};

/// How long a condition may take to come true before a test gives up: generous, because it decides nothing else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "it did not come true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A folder of this test's own, removed when dropped.
pub struct Folder(pub std::path::PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!(
            "tensord-test-{}-{count}-{name}",
            std::process::id()
        ));
        std::fs::create_dir_all(&path).expect("the temporary folder can be written to");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
