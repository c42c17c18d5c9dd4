//! The records of `redirect_common` as aya takes them: a foreign trait on foreign types needs a type between.

use redirect_common::flow::{Flow, Remembered};
use redirect_common::maps::{Address, Config, Pod, Port};

/// A record as its bytes.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Record<T>(pub(crate) T);

macro_rules! plain {
    ($($record:ty),+) => {
        $(
            // SAFETY: the record is `repr(C)` or `repr(transparent)` over integers, has no padding (its own tests say so)
            // and is `Copy`; any bytes are a valid one.
            unsafe impl aya::Pod for Record<$record> {}
        )+
    };
}

plain!(Flow, Remembered, Address, Config, Pod, Port);
