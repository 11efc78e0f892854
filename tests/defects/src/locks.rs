//! Locks.

use crate::defect::Defect;

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[];
