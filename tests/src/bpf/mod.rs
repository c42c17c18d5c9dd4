//! The BPF object on the kernel at hand, run on bytes instead of traffic (`BPF_PROG_TEST_RUN`); and [`model`], which says what
//! it must do. The model has the law, the parser and the keys of memory from `redirect_common`, and everything else of its own.

pub mod bench;
pub mod compare;
mod context;
pub mod model;
pub mod mutate;
pub mod object;
pub mod program;
pub mod random;
pub(crate) mod records;
pub mod verifier;
pub mod world;
