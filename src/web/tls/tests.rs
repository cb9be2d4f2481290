//! Files that are no pair, and a pair that changes while it is served.

use std::fs;

use super::*;
use crate::certificate::SelfSigned;

/// A pair in a folder of its own.
fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = SelfSigned::make(&["localhost".to_owned()], 1).expect("made");
    let (cert, key) = (
        folder.join(format!("{name}.crt")),
        folder.join(format!("{name}.key")),
    );
    fs::write(&cert, made.cert).expect("written");
    fs::write(&key, made.key.as_bytes()).expect("written");
    (cert, key)
}

/// A certificate in use, for whoever needs one and does not care which.
pub(crate) fn any() -> Tls {
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = pair(folder.path(), "any");
    Tls::open(&cert, &key).expect("a pair")
}

#[test]
fn a_pair_that_cannot_be_used_is_refused_in_one_line_that_says_how_to_mend_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = pair(folder.path(), "a");
    let (other, _) = pair(folder.path(), "b");
    let (empty, missing) = (folder.path().join("empty"), folder.path().join("missing"));
    fs::write(&empty, "").expect("written");
    let cut = folder.path().join("cut");
    let whole = fs::read(&cert).expect("there");
    fs::write(&cut, &whole[..whole.len() / 2]).expect("written");
    for (cert, key, told) in [
        (&missing, &key, "must be readable"),
        (&cert, &missing, "must be readable"),
        (&empty, &key, "no certificate in"),
        (&cert, &empty, "no private key in"),
        (&key, &key, "no certificate in"),
        (&cert, &cert, "no private key in"),
        (&cut, &key, "is no PEM file"),
        (&other, &key, "made with it"),
    ] {
        let error = Tls::open(cert, key).expect_err("no pair").to_string();
        assert!(error.contains(told), "{told}: {error}");
        assert!(
            error.starts_with("web.tls_") && !error.contains('\n'),
            "{error}"
        );
    }
    assert!(Tls::open(&cert, &key).is_ok());
}
