//! Labs that end with the test that made them.

use std::ops::{Deref, DerefMut};

use anyhow::Result;

use crate::lab::Lab;
use crate::state::Options;

/// A lab that is removed when the value goes, also when a test panics.
#[derive(Debug)]
pub struct ScopedLab(Lab);

impl ScopedLab {
    /// Makes a lab; one of the same name, left by an interrupted run, is removed first.
    pub fn up(options: Options) -> Result<Self> {
        let prefix = options.prefix.clone();
        Lab::down(&prefix)?;
        match Lab::up(options) {
            Ok(lab) => Ok(Self(lab)),
            Err(error) => {
                Lab::down(&prefix)?;
                Err(error)
            }
        }
    }
}

impl Drop for ScopedLab {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(self.0.name()) {
            eprintln!("lab {} is not removed: {error:#}", self.0.name());
        }
    }
}

impl Deref for ScopedLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.0
    }
}

impl DerefMut for ScopedLab {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.0
    }
}
