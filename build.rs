//! Owns what is made before the program is compiled: the page's files gzipped, so that no time is spent on it later.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use flate2::{Compression, GzBuilder};

#[path = "src/web/assets/slim.rs"]
mod slim;

const FILES: &str = "static";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={FILES}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let mut names = Vec::new();
    list(Path::new(FILES), &mut names)?;
    names.sort();
    let mut table = String::from("&[\n");
    for (number, path) in names.iter().enumerate() {
        let name = path.strip_prefix(FILES).map_err(io::Error::other)?;
        let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        let plain = fs::read(path)?;
        let plain = slim::slim(name, &plain).unwrap_or(plain);
        // Without a time, the same files make the same binary.
        let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
        gzip.write_all(&plain)?;
        let gzipped = gzip.finish()?;
        if gzipped.len() < plain.len() {
            let file = out.join(format!("{number}.gz"));
            fs::write(&file, gzipped)?;
            let file = file.to_str().ok_or(io::ErrorKind::InvalidInput)?;
            writeln!(table, "({name:?}, include_bytes!({file:?})),").map_err(io::Error::other)?;
        }
    }
    table.push(']');
    fs::write(out.join("gzipped.rs"), table)
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}
