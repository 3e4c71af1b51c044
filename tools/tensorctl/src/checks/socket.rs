//! Where the socket is, who may use it, and whether a daemon answers.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use tensord_shm::address;
use tensord_shm::control_socket::ControlSocket;

use super::Finding;
use crate::daemon::{Connection, NoDaemon};

/// All of them; the later ones only where the earlier found a socket.
pub fn check(named: Option<&Path>) -> Vec<Finding> {
    let (path, how) = match named {
        Some(path) => (Some(path.to_owned()), "--socket".to_owned()),
        None if std::env::var_os(address::SOCKET_VARIABLE)
            .is_some_and(|value| !value.is_empty()) =>
        {
            (
                address::find_socket(),
                format!("${}", address::SOCKET_VARIABLE),
            )
        }
        None => (address::find_socket(), "the usual places".to_owned()),
    };
    let Some(path) = path else {
        let folder = address::temporary_folder();
        let mut findings = vec![Finding::warn(
            "socket",
            format!(
                "none in {how}; a daemon of this user would make {}",
                address::default_socket().display()
            ),
            "start the service (systemctl start tensord) or run tensord; Python starts a private daemon by itself",
        )];
        if folder.exists()
            && let Err(error) = address::check_private(&folder)
        {
            findings.push(Finding::fail(
                "socket folder",
                error.to_string(),
                "as it says; nobody else may own it",
            ));
        }
        return findings;
    };
    let mut findings = vec![permissions(&path, &how)];
    findings.push(daemon(&path));
    if named.is_none() {
        findings.push(administration(&address::admin_beside(&path)));
    }
    findings
}

fn permissions(path: &Path, how: &str) -> Finding {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Finding::fail(
                "socket",
                format!("{shown} (from {how}) is not there"),
                start(path),
            );
        }
        Err(error) => {
            let advice = "choose a path that this user may reach";
            return Finding::fail("socket", format!("{shown} (from {how}): {error}"), advice);
        }
    };
    if !metadata.file_type().is_socket() {
        return Finding::fail(
            "socket",
            format!("{shown} (from {how}) is no socket"),
            "remove it, or choose another path",
        );
    }
    let text = format!(
        "{shown} (from {how}), mode {:04o}, owner {}",
        metadata.mode() & 0o7777,
        metadata.uid()
    );
    let folder = path.parent().and_then(|folder| fs::metadata(folder).ok());
    match folder {
        // Without the sticky bit whoever may write to the folder can put a socket of his own in this one's place.
        Some(folder) if folder.mode() & 0o022 != 0 && folder.mode() & 0o1000 == 0 => Finding::warn(
            "socket",
            format!("{text}; its folder has mode {:04o}", folder.mode() & 0o7777),
            "others may replace the socket: chmod go-w its folder",
        ),
        _ => Finding::ok("socket", text),
    }
}

fn daemon(path: &Path) -> Finding {
    let mut connection = match Connection::open(Some(path)) {
        Ok(connection) => connection,
        Err(error) if error.is::<NoDaemon>() => {
            return Finding::fail("daemon", "nobody listens on it", start(path));
        }
        Err(error) => {
            let advice = "the daemon's operator gives access: mode and group of the socket ([[listen]] mode)";
            return Finding::fail("daemon", format!("{error:#}"), advice);
        }
    };
    let stat = match connection.stat() {
        Ok(stat) => stat,
        Err(error) => {
            let advice = "look at the daemon's log (journalctl -u tensord); restart it";
            return Finding::fail("daemon", format!("{error:#}"), advice);
        }
    };
    let version = stat.0["daemon"]["version"]
        .as_str()
        .unwrap_or("unknown")
        .to_owned();
    let silent = stat
        .engines()
        .iter()
        .filter(|engine| engine["responding"] == false)
        .count();
    let text = format!(
        "answers, version {version}, {} engine(s)",
        stat.engines().len()
    );
    if stat.0["daemon"]["draining"] == true {
        return Finding::warn(
            "daemon",
            format!("{text}, draining"),
            "it takes nothing new; start it again",
        );
    }
    if silent > 0 {
        let advice = "look at the daemon's log; an engine that hangs is ended and started again";
        return Finding::warn("daemon", format!("{text}, {silent} of them silent"), advice);
    }
    if version != env!("CARGO_PKG_VERSION") {
        let advice = "install both of one version; one major version still works together";
        return Finding::warn(
            "daemon",
            format!("{text}; this tool is {}", env!("CARGO_PKG_VERSION")),
            advice,
        );
    }
    Finding::ok("daemon", text)
}

fn administration(path: &Path) -> Finding {
    match ControlSocket::connect(path) {
        Ok(_) => Finding::ok(
            "administration",
            format!("{} lets this user in", path.display()),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::ok(
            "administration",
            format!(
                "{} is closed to this user: others' sessions appear as one sum",
                path.display()
            ),
        ),
        Err(error) => Finding::warn(
            "administration",
            format!("{}: {error}", path.display()),
            "give its path with --socket if the configuration puts it elsewhere (admin_path)",
        ),
    }
}

fn start(path: &Path) -> String {
    format!(
        "start it: systemctl start tensord, or tensord --socket {}",
        path.display()
    )
}
