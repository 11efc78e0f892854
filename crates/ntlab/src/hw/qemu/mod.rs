//! The real device: QEMU's `edu`, driven over its qtest socket.

mod device;
mod process;
mod qtest;

pub use device::QemuDevice;
pub use process::{MAILBOX, Qemu, QemuError, RAM_BYTES, Version, version};
pub use qtest::{Level, Lost};
