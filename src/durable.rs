//! Owns how a small file of its owner's alone is replaced: whole and durable under its name, or as it was before.
//! It must never leave a half-written file under the name, nor one that others may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;

/// Writes `parts` under a name of the caller's, which nothing may bear yet and which is free again afterwards, and gives
/// the file its own name once it is durable. Both names lie in `folder`. What root writes belongs to whoever owns the
/// folder.
pub(crate) fn replace(
    folder: &Path,
    unfinished: &Path,
    path: &Path,
    parts: &[&[u8]],
) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(unfinished)?;
    let replaced = fill(&mut file, folder, parts).and_then(|()| fs::rename(unfinished, path));
    if let Err(error) = replaced {
        // The first error says why; a name that stays is only in the way.
        let _ = fs::remove_file(unfinished);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn fill(file: &mut File, folder: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let owner = fs::metadata(folder)?;
    let is_root = rustix::process::geteuid().is_root();
    if is_root && file.metadata()?.uid() != owner.uid() {
        fchown(&*file, Some(owner.uid()), Some(owner.gid()))?;
    }
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}
