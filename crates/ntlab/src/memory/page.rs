//! What a page of the machine's memory is, and who may touch it how.

use super::host::Protection;

/// Bits in the discriminants of [`PageKind`].
const READ: u8 = 0x80;
const WRITE: u8 = 0x40;
const EXECUTE: u8 = 0x20;
/// Numbers of pages that may only be touched below `DISPATCH_LEVEL` have both of these bits. They have none of the above, so that one bit
/// tells what is allowed at every IRQL; what is allowed below is in [`PAGEABLE_ACCESS`].
const PAGEABLE: u8 = 0x18;
/// What pageable pages allow, by what their numbers have besides [`PAGEABLE`].
const PAGEABLE_ACCESS: [u8; 8] = [READ | EXECUTE, READ, READ | WRITE, READ | WRITE, READ, READ | WRITE, 0, 0];

macro_rules! page_kinds {
    ($($(#[$doc:meta])* $name:ident = $value:expr,)*) => {
        /// What a page is. The discriminant carries the access that kernel functions have on behalf of the driver.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum PageKind {
            $($(#[$doc])* $name = $value,)*
        }

        impl PageKind {
            /// The kind behind a byte of the page map; a byte that is none is free.
            #[inline]
            pub(crate) const fn from_byte(byte: u8) -> Self {
                match byte {
                    $(value if value == Self::$name as u8 => Self::$name,)*
                    _ => Self::Free,
                }
            }
        }
    };
}

page_kinds! {
    /// Nothing was ever here.
    Free = 0,
    /// Headers and read-only sections of an image.
    ImageReadOnly = READ | 0x01,
    /// Code of an image.
    ImageCode = READ | EXECUTE | 0x02,
    /// Writable sections of an image.
    ImageData = READ | WRITE | 0x03,
    /// A section that is writable and executable.
    ImageWritableCode = READ | WRITE | EXECUTE | 0x04,
    /// INIT sections after initialization.
    ImageDiscarded = 0x05,
    /// An image that was unloaded.
    ImageUnloaded = 0x06,
    /// Nonpaged pool.
    NonPagedPool = READ | WRITE | 0x07,
    /// Nonpaged pool that may hold code.
    ExecutablePool = READ | WRITE | EXECUTE | 0x08,
    /// A user's buffer that is locked in memory for reading only.
    LockedReadOnly = READ | 0x09,
    /// The page after a pool block.
    PoolGuard = 0x0a,
    /// A freed pool block.
    PoolFreed = 0x0b,
    /// Structures made by the kernel: IRPs, threads, file objects.
    Object = READ | WRITE | 0x0c,
    /// A kernel stack.
    Stack = READ | WRITE | 0x0d,
    /// The pages below a kernel stack.
    StackGuard = 0x0e,
    /// Device registers.
    Mmio = 0x0f,
    /// Device registers that were unmapped.
    MmioUnmapped = 0x10,
    /// Memory of a user process.
    User = READ | WRITE | 0x11,
    /// Import thunks and the C runtime functions of the kernel.
    KernelCode = READ | EXECUTE | 0x12,
    /// The processor control region that gs points at.
    ProcessorControl = 0x13,
    /// The page after a buffer of a request.
    BufferGuard = 0x15,
    /// A user's buffer that the driver has not probed.
    UserUnprobed = 0x16,
    /// The lab's own: nothing a driver could have an address of.
    Host = 0x14,
    /// Driver code as the stepper has encoded it again, while more of it is written.
    Translated = READ | EXECUTE | 0x17,
    /// An IRP with pages of its own.
    Packet = READ | WRITE | 0x17,
    /// One that was freed, or the buffer of its request.
    PacketFreed = 0x17,
    /// Code of an image in a pageable section.
    PagedCode = PAGEABLE,
    /// A read-only pageable section.
    PagedReadOnly = PAGEABLE + 1,
    /// A writable pageable section.
    PagedData = PAGEABLE + 2,
    /// Paged pool.
    PagedPool = PAGEABLE + 3,
    /// A user's buffer that the driver has probed for reading.
    UserReadable = PAGEABLE + 4,
    /// A user's buffer that the driver has probed for writing.
    UserWritable = PAGEABLE + 5,
}

/// What code wants to do with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
    /// Execute it.
    Execute,
}

impl Access {
    /// The bit of a page kind that allows it.
    pub(crate) const fn bit(self) -> u8 {
        match self {
            Self::Read => READ,
            Self::Write => WRITE,
            Self::Execute => EXECUTE,
        }
    }

    /// As a bug check parameter: 0 read, 1 write, 8 execute.
    #[must_use]
    pub const fn parameter(self) -> u64 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Execute => 8,
        }
    }

    /// "read of", "write to", "execution of".
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Read => "read of",
            Self::Write => "write to",
            Self::Execute => "execution of",
        }
    }
}

/// Whether the kind behind a byte of the page map allows an access.
#[inline]
pub const fn allowed(byte: u8, access: Access) -> bool {
    let allowed = if pageable(byte) { PAGEABLE_ACCESS[(byte % 8) as usize] } else { byte };
    allowed & access.bit() != 0
}

/// Whether it allows an access at every IRQL.
#[inline]
pub const fn allowed_always(byte: u8, access: Access) -> bool {
    byte & access.bit() != 0
}

/// Whether the kind behind a byte of the page map is pageable.
#[inline]
pub const fn pageable(byte: u8) -> bool {
    byte & PAGEABLE == PAGEABLE
}

impl PageKind {
    /// Whether kernel functions may do that with the page on behalf of the driver.
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        allowed(self as u8, access)
    }

    /// Whether the page may only be touched below `DISPATCH_LEVEL`.
    #[must_use]
    pub const fn pageable(self) -> bool {
        pageable(self as u8)
    }

    /// What the host lets driver code do with the page.
    #[must_use]
    pub const fn protection(self) -> Protection {
        if matches!(self, Self::Translated) {
            return Protection::All;
        }
        match (self.allows(Access::Read), self.allows(Access::Write), self.allows(Access::Execute)) {
            (false, ..) => Protection::None,
            (true, false, false) => Protection::Read,
            (true, true, false) => Protection::ReadWrite,
            (true, false, true) => Protection::ReadExecute,
            (true, true, true) => Protection::All,
        }
    }
}
