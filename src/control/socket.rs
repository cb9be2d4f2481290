//! Owns the socket's file: made so that nobody else can ever connect, taken over from a dead process, never from a
//! live one, removed at the end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error(
        "another appliance{} answers at the control socket {}; stop it, or give this one a control_socket of its own",
        process.map_or_else(String::new, |process| format!(" (process {process})")),
        path.display()
    )]
    Live {
        /// Where.
        path: PathBuf,
        /// Who, where the kernel says so.
        process: Option<i32>,
    },
    /// There is something else in its place.
    #[error("{} is no socket; move it away, or set control_socket to another place", path.display())]
    NoSocket {
        /// Where.
        path: PathBuf,
    },
    /// The path does not fit into a socket's address.
    #[error("the control socket's path {} is too long (100 bytes at most); set control_socket to a shorter one", path.display())]
    TooLong {
        /// Where.
        path: PathBuf,
    },
    /// The system says no.
    #[error("the control socket {} cannot be made: {source}; make its folder writable, or set control_socket to another place", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BindError {
    /// Whether the disk is full or takes nothing: no setting of anybody's is wrong.
    #[must_use]
    pub fn is_disk(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
        ))
    }
}

/// The file of a bound socket; dropping it removes the file.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Device and inode: what another appliance has put there since is not ours to remove.
    file: (u64, u64),
}

impl Drop for Place {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // A file that stays is a dead socket, which the next start takes over.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Binds the socket.
pub(super) fn bind(path: &Path) -> Result<(UnixListener, Place), BindError> {
    let fail = |source: io::Error| BindError::Io {
        path: path.to_owned(),
        source,
    };
    // Under another name first: it takes the place of a dead one in one step.
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let born = PathBuf::from(name);
    let address = SocketAddrUnix::new(&born).map_err(|_| BindError::TooLong {
        path: path.to_owned(),
    })?;
    must_be_dead(path)?;
    match std::fs::symlink_metadata(&born) {
        // A start that was killed in between.
        Ok(file) if file.file_type().is_socket() => std::fs::remove_file(&born).map_err(fail)?,
        Ok(_) => return Err(BindError::NoSocket { path: born }),
        Err(_) => {}
    }
    let socket = new_socket().map_err(fail)?;
    rustix::net::bind(&socket, &address).map_err(|error| fail(error.into()))?;
    let listening = listen(socket, &born, path);
    if listening.is_err() {
        // Nobody was ever able to connect to it.
        let _ = std::fs::remove_file(&born);
    }
    listening.map_err(fail)
}

/// A socket that does not listen refuses everybody: it is closed to others before anybody can connect.
fn listen(socket: OwnedFd, born: &Path, path: &Path) -> io::Result<(UnixListener, Place)> {
    std::fs::set_permissions(born, std::fs::Permissions::from_mode(0o600))?;
    let file = identity(born)?;
    rustix::net::listen(&socket, BACKLOG)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
    std::fs::rename(born, path)?;
    let place = Place {
        path: path.to_owned(),
        file,
    };
    Ok((listener, place))
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

/// Whether what lies there, if anything does, is the socket of a process that is gone.
fn must_be_dead(path: &Path) -> Result<(), BindError> {
    let fail = |source: io::Error| BindError::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(BindError::NoSocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|_| BindError::TooLong {
        path: path.to_owned(),
    })?;
    let probe = new_socket().map_err(fail)?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        // Its queue is full, or it answers: it lives.
        Err(Errno::AGAIN) => Err(BindError::Live {
            path: path.to_owned(),
            process: None,
        }),
        Ok(()) => Err(BindError::Live {
            path: path.to_owned(),
            process: UnixStream::from_std(probe.into())
                .and_then(|probe| probe.peer_cred())
                .ok()
                .and_then(|peer| peer.pid()),
        }),
        Err(error) => Err(fail(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn the_socket_is_closed_to_others_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        let (_listener, place) = bind(&path).expect("bound");
        let mode = std::fs::metadata(&path).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["control.sock"]);
        UnixStream::connect(&path).await.expect("it answers");
        drop(place);
        assert_eq!(names(folder.path()).len(), 0);
    }

    #[tokio::test]
    async fn a_dead_socket_is_taken_over_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        let (listener, place) = bind(&path).expect("bound");
        let process = i32::try_from(std::process::id()).expect("small");
        match bind(&path) {
            Err(BindError::Live {
                process: Some(found),
                ..
            }) => assert_eq!(found, process),
            other => panic!("{other:?}"),
        }
        // A killed process leaves its file behind, or the one that had no name yet.
        std::mem::forget(place);
        drop(listener);
        std::fs::rename(&path, folder.path().join("control.sock.new")).expect("renamed");
        let (listener, place) = bind(&path).expect("taken over");
        std::mem::forget(place);
        drop(listener);
        let (_listener, _place) = bind(&path).expect("taken over");
        assert_eq!(names(folder.path()), ["control.sock"]);
    }

    #[tokio::test]
    async fn what_another_one_put_there_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        let (listener, place) = bind(&path).expect("bound");
        drop(listener);
        let (_listener, _theirs) = bind(&path).expect("taken over");
        drop(place);
        assert_eq!(names(folder.path()), ["control.sock"]);
    }

    #[tokio::test]
    async fn whatever_is_in_the_way_is_named_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control.sock");
        std::fs::write(&path, "something of somebody's").expect("written");
        let error = bind(&path).expect_err("in the way").to_string();
        assert!(error.contains("is no socket"), "{error}");
        assert_eq!(
            std::fs::read(&path).expect("kept"),
            b"something of somebody's"
        );
        let missing = folder.path().join("no/such/control.sock");
        let error = bind(&missing).expect_err("no folder").to_string();
        assert!(error.contains("cannot be made"), "{error}");
        let long = folder.path().join("x".repeat(120));
        let error = bind(&long).expect_err("too long").to_string();
        assert!(error.contains("too long"), "{error}");
        for error in [bind(&missing), bind(&long)] {
            let line = error.expect_err("refused").to_string();
            assert!(!line.contains('\n'), "{line}");
        }
    }
}
