//! Owns the proof that the simulator is right: an unmodified client, independent of Hairpin, links to it.

mod companion;
mod control;
mod crowd;
mod links;
mod strict;
mod trouble;
