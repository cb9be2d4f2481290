//! Owns what the process keeps to itself: its memory holds codes and keys.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Lets no core dump be written, and no other process of the same user look into this one's memory.
pub fn keep_memory_private() {
    // A sandbox that forbids either has its own reasons; the program is no worse off than any other then.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
