//! Where a cache line lies, so that a person can find it.

use std::{fmt, rc::Rc};

use serde::Serialize;
use windows_sys::Wdk::Foundation::{DEVICE_OBJECT, IRP};

use crate::{
    exec::StackFrame,
    io::{self, device, irp},
    kernel::Kernel,
    memory::{Arena, Owner, PageKind, Ptr},
};

/// Where a cache line lies. Offsets are those of its first byte, which may be before the object that it holds a part of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lies {
    /// In pool that a driver allocated.
    Pool {
        /// The tag.
        tag: String,
        /// The size of the block.
        bytes: u64,
        /// From its first byte.
        offset: i64,
        /// Where it was allocated, innermost first.
        allocated: Vec<StackFrame>,
    },
    /// In an image.
    Image {
        /// Its name.
        module: String,
        /// The section.
        section: String,
        /// From the image's base.
        offset: u64,
    },
    /// In a device extension.
    DeviceExtension {
        /// From its first byte.
        offset: i64,
    },
    /// In what is the I/O manager's own: it would be shared with any driver.
    IoManager(&'static str),
    /// In another structure of the kernel's.
    Kernel {
        /// Its size.
        bytes: u64,
    },
    /// In the kernel stack of another thread than the one that wrote.
    Stack,
    /// Elsewhere.
    Elsewhere,
}

impl Lies {
    /// Whether it is the I/O manager's own.
    #[must_use]
    pub const fn is_io_managers(&self) -> bool {
        matches!(self, Self::IoManager(_))
    }
}

impl fmt::Display for Lies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool { tag, bytes, offset, allocated } => {
                write!(f, "offset {offset} of a pool block of {bytes} bytes, tag '{tag}'")?;
                let frames = allocated.iter().filter_map(|frame| frame.function.as_deref());
                let names: Vec<&str> = frames.take(6).collect();
                write!(f, ", allocated in {}", names.join(" < "))
            }
            Self::Image { module, section, offset } => write!(f, "{module}+{offset:#x} in {section}"),
            Self::DeviceExtension { offset } => write!(f, "offset {offset} of the device extension"),
            Self::IoManager(what) => write!(f, "{what} (the I/O manager's)"),
            Self::Kernel { bytes } => write!(f, "a structure of the kernel's of {bytes} bytes"),
            Self::Stack => f.write_str("the stack of another thread"),
            Self::Elsewhere => f.write_str("other memory"),
        }
    }
}

/// Where a line lies, before anybody has looked up where its block was allocated.
#[derive(Debug)]
pub struct Found {
    lies: Lies,
    /// Where the driver was then; empty for what is no block.
    stack: Rc<[u64]>,
}

impl Found {
    /// With the frames behind the stack.
    pub fn describe(self, frames: &mut impl FnMut(&Rc<[u64]>) -> Vec<StackFrame>) -> Lies {
        match self.lies {
            Lies::Pool { tag, bytes, offset, .. } => Lies::Pool { tag, bytes, offset, allocated: frames(&self.stack) },
            lies => lies,
        }
    }
}

impl From<Lies> for Found {
    fn from(lies: Lies) -> Self {
        Self { lies, stack: Rc::default() }
    }
}

/// Where the line at an address lies.
pub fn find(k: &Kernel, line: u64) -> Found {
    // The line may begin before what is written.
    let place = (line..line + 64).step_by(8).find_map(|address| k.memory.space.locate(address).map(|(arena, _)| arena));
    match place {
        Some(Arena::Pool | Arena::PagedPool) => in_pool(k, line),
        Some(Arena::Images) => in_image(k, line).into(),
        Some(Arena::Objects) => in_object(k, line).into(),
        Some(Arena::Packets) => Lies::IoManager("an IRP").into(),
        Some(Arena::Stacks) => Lies::Stack.into(),
        Some(Arena::User) => Lies::IoManager("a user's buffer").into(),
        _ => Lies::Elsewhere.into(),
    }
}

fn in_pool(k: &Kernel, line: u64) -> Found {
    let Some(block) = k.memory.pool.holding(line, 64) else {
        // Buffers of requests are no blocks.
        let lies = match k.memory.space.kind(line) {
            PageKind::NonPagedPool => Lies::IoManager("the system buffer of a request"),
            PageKind::User | PageKind::LockedReadOnly => Lies::IoManager("a user's buffer"),
            _ => Lies::Elsewhere,
        };
        return lies.into();
    };
    if block.request.owner == Owner::Kernel {
        return Lies::Kernel { bytes: block.request.bytes }.into();
    }
    let lies = Lies::Pool {
        tag: block.request.tag.to_string(),
        bytes: block.request.bytes,
        offset: line.wrapping_sub(block.address).cast_signed(),
        allocated: Vec::new(),
    };
    Found { lies, stack: block.stack }
}

fn in_image(k: &Kernel, line: u64) -> Lies {
    k.exec.section(line).map_or(Lies::Elsewhere, |(module, section, offset)| Lies::Image { module, section, offset })
}

fn in_object(k: &Kernel, line: u64) -> Lies {
    let Some((start, bytes)) = k.memory.object_around(line) else { return Lies::Elsewhere };
    let device = Ptr::<DEVICE_OBJECT>::new(start);
    if device::is_device(k, device) {
        let extension = device::extension_at(device, line);
        return extension.map_or(Lies::IoManager("a device object"), |offset| Lies::DeviceExtension { offset });
    }
    if irp::is_irp(k, Ptr::<IRP>::new(start + irp::HEADER)) {
        return Lies::IoManager("an IRP");
    }
    if k.io.files.has_object(start) {
        return Lies::IoManager("a file object");
    }
    if io::mdl::is_mdl(start, bytes) {
        return Lies::IoManager("an MDL");
    }
    Lies::Kernel { bytes }
}
