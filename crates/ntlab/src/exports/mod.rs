//! The functions of ntoskrnl.exe and hal.dll that the lab has.
//!
//! Each is one row of a table in this folder: its name, its IRQL contract and the function that does it. A driver that imports a name
//! without a row is refused at load.

pub mod callbacks;
pub(crate) mod contract;
pub(crate) mod dma;
mod hot_add;
mod interrupt;
mod power;

mod dbg;
mod exception;
mod format;
mod ke_dpc;
mod ke_level;
mod ke_processor;
mod ke_time;
mod ke_wait;
mod lookaside;
mod mdl;
mod mutex;
pub(crate) mod notes;
mod ps;
pub(crate) mod resource;
mod rundown;
pub(crate) mod start_io;

mod memory;
mod pool;

mod etw;
mod io_build;
mod io_device;
mod io_irp;
mod io_pnp;
pub(crate) mod io_timer;
mod lists;
mod ob;
mod printf;
mod rtl;
mod rtl_registry;
mod strings;
mod system;
pub(crate) mod wmi;
mod zw;

use std::{collections::BTreeMap, sync::LazyLock};

use crate::{irql::IrqlRange, kernel::Kernel, memory::Ptr};

/// One exported kernel function.
#[derive(Clone, Copy)]
pub struct Export {
    /// Name, as in the headers.
    pub name: &'static str,
    /// The levels it may be called at, from its page's "IRQL" field.
    pub irql: IrqlRange,
    /// What it does, from the argument array to the value of rax.
    pub call: fn(&Kernel, Arguments) -> u64,
}

/// The arguments of a kernel call: the four homed registers and what follows them on the driver's stack, one array.
#[derive(Clone, Copy, Debug)]
pub struct Arguments {
    next: Ptr<u64>,
}

impl Arguments {
    /// The array that starts at `first`.
    #[must_use]
    pub const fn new(first: Ptr<u64>) -> Self {
        Self { next: first }
    }

    /// Takes the next argument.
    #[inline]
    pub fn take(&mut self) -> u64 {
        let value = self.next.read();
        self.next = self.next.offset(1);
        value
    }
}

/// A type that can be an argument of a kernel function. The upper bits of narrow arguments are undefined and ignored.
pub trait Argument {
    /// Takes the value from the array.
    fn take(arguments: &mut Arguments) -> Self;
}

/// A type that a kernel function can return.
pub trait Returned {
    /// The value of rax.
    fn rax(self) -> u64;
}

macro_rules! integer_argument {
    ($($type:ty)*) => {$(
        impl Argument for $type {
            #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_lossless, reason = "narrow arguments are the low bits")]
            #[inline]
            fn take(arguments: &mut Arguments) -> Self {
                arguments.take() as Self
            }
        }
        impl Returned for $type {
            #[allow(clippy::cast_sign_loss, clippy::cast_lossless, reason = "the low bits of rax are the value")]
            fn rax(self) -> u64 {
                self as u64
            }
        }
    )*};
}
integer_argument!(u8 i8 u16 i16 u32 i32 u64 i64 usize);

impl Argument for bool {
    #[inline]
    fn take(arguments: &mut Arguments) -> Self {
        u8::take(arguments) != 0
    }
}
impl<T> Argument for Ptr<T> {
    #[inline]
    fn take(arguments: &mut Arguments) -> Self {
        Self::new(arguments.take())
    }
}
/// The rest of the array: the arguments of a variadic function.
impl Argument for Arguments {
    fn take(arguments: &mut Arguments) -> Self {
        *arguments
    }
}
impl Returned for bool {
    fn rax(self) -> u64 {
        u64::from(self)
    }
}
impl Returned for () {
    fn rax(self) -> u64 {
        0
    }
}
impl<T> Returned for Ptr<T> {
    fn rax(self) -> u64 {
        self.address()
    }
}

/// A function that can stand behind an export: takes the kernel and its arguments by type.
pub trait KernelFunction<Signature> {
    /// Takes the arguments from the array and calls the function.
    fn invoke(self, kernel: &Kernel, arguments: Arguments) -> u64;
}

macro_rules! kernel_function {
    ($($argument:ident)*) => {
        impl<Function, Output, $($argument),*> KernelFunction<($($argument,)*)> for Function
        where
            Function: Fn(&Kernel, $($argument),*) -> Output,
            Output: Returned,
            $($argument: Argument,)*
        {
            #[allow(non_snake_case, unused_mut, unused_variables, reason = "one macro for every number of arguments")]
            #[inline]
            fn invoke(self, kernel: &Kernel, mut arguments: Arguments) -> u64 {
                $(let $argument = $argument::take(&mut arguments);)*
                self(kernel, $($argument),*).rax()
            }
        }
    };
}
kernel_function!();
kernel_function!(A);
kernel_function!(A B);
kernel_function!(A B C);
kernel_function!(A B C D);
kernel_function!(A B C D E);
kernel_function!(A B C D E F);
kernel_function!(A B C D E F G);
kernel_function!(A B C D E F G H);
kernel_function!(A B C D E F G H I);
kernel_function!(A B C D E F G H I J);
kernel_function!(A B C D E F G H I J K);
kernel_function!(A B C D E F G H I J K L);

/// A row of a table of exports: `export!("KeSetEvent", at_most(DISPATCH_LEVEL), ke_set_event)`.
#[macro_export]
macro_rules! export {
    ($name:literal, $irql:expr, $function:path) => {
        $crate::exports::Export {
            name: $name,
            irql: $irql,
            call: |kernel, arguments| $crate::exports::KernelFunction::invoke($function, kernel, arguments),
        }
    };
}

/// Every table. Each module of the lab that stands behind kernel functions has one.
const TABLES: &[&[Export]] = &[
    etw::FUNCTIONS,
    io_build::FUNCTIONS,
    io_device::FUNCTIONS,
    io_irp::FUNCTIONS,
    io_pnp::FUNCTIONS,
    io_timer::FUNCTIONS,
    lists::FUNCTIONS,
    rtl_registry::FUNCTIONS,
    strings::FUNCTIONS,
    system::FUNCTIONS,
    ob::FUNCTIONS,
    rtl::FUNCTIONS,
    wmi::FUNCTIONS,
    zw::FUNCTIONS,
    dbg::FUNCTIONS,
    printf::FUNCTIONS,
    exception::FUNCTIONS,
    lookaside::FUNCTIONS,
    mdl::FUNCTIONS,
    mutex::FUNCTIONS,
    resource::FUNCTIONS,
    start_io::FUNCTIONS,
    ke_dpc::FUNCTIONS,
    ke_level::FUNCTIONS,
    ke_processor::FUNCTIONS,
    ke_time::FUNCTIONS,
    ke_wait::FUNCTIONS,
    ps::FUNCTIONS,
    rundown::FUNCTIONS,
    dma::FUNCTIONS,
    hot_add::FUNCTIONS,
    interrupt::FUNCTIONS,
    power::FUNCTIONS,
    memory::FUNCTIONS,
    pool::FUNCTIONS,
    #[cfg(test)]
    crate::exec::tests::FUNCTIONS,
];

/// Every function that drivers can import.
#[cfg(test)]
pub(crate) fn documented() -> impl Iterator<Item = &'static Export> {
    TABLES.iter().take(TABLES.len() - 1).flat_map(|table| table.iter())
}

/// The export called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Export> {
    static BY_NAME: LazyLock<BTreeMap<&'static str, &'static Export>> =
        LazyLock::new(|| TABLES.iter().flat_map(|table| table.iter()).map(|export| (export.name, export)).collect());
    BY_NAME.get(name).copied()
}

/// Every function that drivers can call: those they import, and those that tables of functions have.
pub fn all() -> impl Iterator<Item = &'static Export> {
    TABLES.iter().flat_map(|table| table.iter()).chain(&dma::OPERATIONS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::TABLES;

    #[test]
    fn every_function_has_one_row() {
        let mut names = BTreeSet::new();
        let twice: Vec<_> =
            TABLES.iter().flat_map(|table| table.iter()).filter(|export| !names.insert(export.name)).collect();
        assert!(twice.is_empty(), "{:?}", twice.iter().map(|export| export.name).collect::<Vec<_>>());
    }
}
