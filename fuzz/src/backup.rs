//! Backups: the first byte says whether what follows is a file, what one carries, or how a whole one was changed.

use std::sync::OnceLock;

use hairpin::store::probe::sealed;
use hairpin::store::{Backup, BackupError, BackupKey, BackupWay, WrappingKey};

/// Made by the program that wrote the first layout.
const WHOLE: &[u8] = include_bytes!("../../tests/layouts/1/backup");
const MAGIC: &[u8] = b"HAIRPINB";

fn key() -> &'static BackupKey {
    static KEY: OnceLock<BackupKey> = OnceLock::new();
    KEY.get_or_init(|| BackupKey::Credential(WrappingKey::from_credential(&[7; 32])))
}

/// Never more than a typed refusal, and never a file that somebody changed.
pub fn run(input: &[u8]) {
    let Some((&form, bytes)) = input.split_first() else {
        return;
    };
    match form % 3 {
        0 => file(bytes),
        1 => carried(bytes),
        _ => changed(bytes),
    }
}

/// Anything for a file.
fn file(bytes: &[u8]) {
    let begins = !bytes.is_empty() && MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]);
    match Backup::way(bytes) {
        Err(error) => {
            assert_eq!(error != BackupError::Foreign, begins, "{error:?}");
            assert_eq!(Backup::open(bytes, key()).err(), Some(error));
        }
        // That takes its time on purpose.
        Ok(BackupWay::Passphrase) => {
            assert_eq!(
                Backup::open(bytes, key()).err(),
                Some(BackupError::WantsPassphrase)
            );
        }
        Ok(BackupWay::Credential) => {
            if bytes != WHOLE {
                assert!(
                    Backup::open(bytes, key()).is_err(),
                    "nobody else has the key"
                );
            }
        }
    }
}

/// Anything sealed with the right key, as an older or newer program might have.
fn carried(plain: &[u8]) {
    let file = sealed(key(), plain).expect("sealed");
    match Backup::open(&file, key()) {
        Err(BackupError::Damaged) => {}
        Err(BackupError::Newer(layout)) => assert!(layout > 1),
        Err(other) => panic!("{other:?}"),
        Ok(backup) => {
            let mut rest = plain;
            let mut records = Vec::new();
            while let Some((length, after)) = rest.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                records.push(&after[..length]);
                rest = &after[length..];
            }
            assert!(rest.is_empty(), "all of it was read");
            let head = records.first().expect("a head");
            let made_at = head[1..9].try_into().expect("eight bytes");
            assert_eq!(i64::from_le_bytes(made_at), backup.made_at());
            assert!(head[17..].starts_with(backup.program().as_bytes()));
        }
    }
}

/// A whole one, with these bytes laid over it from a place on.
fn changed(input: &[u8]) {
    let Some((at, bytes)) = input.split_first_chunk::<2>() else {
        return;
    };
    let at = usize::from(u16::from_le_bytes(*at)) % (WHOLE.len() + 1);
    let mut file = WHOLE.to_vec();
    let end = file.len().min(at + bytes.len());
    file[at..end].copy_from_slice(&bytes[..end - at]);
    file.extend_from_slice(&bytes[end - at..]);
    for length in [file.len(), at] {
        let file = &file[..length];
        let opened = Backup::open(file, key());
        assert_eq!(opened.is_ok(), file == WHOLE, "{:?}", opened.err());
    }
}
