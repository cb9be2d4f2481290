//! Stored records: the first byte chooses the kind, all that follows is the record.

use hairpin::store::StoreError;
use hairpin::store::probe::{JOURNAL, KINDS, record};

/// What is read is all of what was there, and is written as it was read; anything else is damage.
pub fn run(input: &[u8]) {
    let Some((&kind, bytes)) = input.split_first() else {
        return;
    };
    match record(kind, bytes) {
        Err(error) => assert_eq!(error, StoreError::Damaged),
        Ok(written) if kind % KINDS == JOURNAL => {
            assert_eq!(
                record(kind, &written),
                Ok(written),
                "read and written again"
            );
        }
        Ok(written) => assert_eq!(written, bytes, "read and written"),
    }
}
