//! The parts of the torture machine.

pub mod disk;
pub mod keeper;
pub mod link;
pub mod nemesis;
pub mod process;
pub mod reader;
pub mod rng;
pub mod settle;
pub mod world;
pub mod writer;
