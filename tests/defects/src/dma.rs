//! DMA.

use core::{
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use wdk_sys::{
    _INTERFACE_TYPE, DEVICE_DESCRIPTION, DEVICE_DESCRIPTION_VERSION3, DEVICE_OBJECT, DMA_ADAPTER, IRP,
    IRP_MJ_DEVICE_CONTROL, LARGE_INTEGER, MDL, NTSTATUS, PHYSICAL_ADDRESS, PSCATTER_GATHER_LIST, PVOID,
    STATUS_INSUFFICIENT_RESOURCES, STATUS_SUCCESS,
    ntddk::{
        ExAllocatePool2, ExFreePoolWithTag, IoAllocateMdl, IoFreeMdl, IoGetDmaAdapter, KeDelayExecutionThread,
        MmBuildMdlForNonPagedPool,
    },
};

use crate::{
    TAG,
    defect::{Defect, Hook},
    device::Device,
    irp,
    pool::raised,
};

/// The rules of this topic.
pub const DEFECTS: &[Defect] = &[
    Defect::new("dma_not_mapped", &[Hook::Start(prepare), Hook::Request(not_mapped), Hook::Remove(release)]),
    Defect::new("dma_beyond_the_mask", &[Hook::Start(prepare), Hook::Request(beyond_the_mask), Hook::Remove(release)]),
    Defect::new("dma_freed_in_flight", &[Hook::Start(prepare), Hook::Request(freed_in_flight), Hook::Remove(release)]),
    Defect::new(
        "dma_unmapped_in_flight",
        &[Hook::Start(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, unmapped_in_flight), Hook::Remove(release)],
    ),
    Defect::new(
        "dma_outside_the_device",
        &[Hook::Start(prepare), Hook::Request(outside_the_device), Hook::Remove(release)],
    ),
    Defect::new(
        "dma_buffer_freed_twice",
        &[Hook::Start(prepare), Hook::Request(buffer_freed_twice), Hook::Remove(release)],
    ),
    Defect::new("dma_adapter_put_with_buffer", &[Hook::Start(prepare), Hook::Request(put_with_buffer)]),
    Defect::new("dma_adapter_put_with_list", &[Hook::Start(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, put_with_list)]),
    Defect::new("dma_adapter_used_after_put", &[Hook::Start(prepare), Hook::Request(used_after_put)]),
    Defect::new(
        "dma_list_put_twice",
        &[Hook::Start(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, list_put_twice), Hook::Remove(release)],
    ),
    Defect::new(
        "dma_outside_the_buffer",
        &[Hook::Start(prepare), Hook::Irp(IRP_MJ_DEVICE_CONTROL, outside_the_buffer), Hook::Remove(release)],
    ),
    Defect::new(
        "dma_buffer_not_locked",
        &[Hook::Start(prepare), Hook::Request(buffer_not_locked), Hook::Remove(release)],
    ),
];

const TRUE: u8 = 1;
const POOL_FLAG_NON_PAGED: u64 = 0x40;
/// The common buffer's length, and that of every transfer.
const LENGTH: u32 = 4096;
const COUNT: u32 = 16;
/// How many address bits `edu` has.
const ADDRESS_BITS: u32 = 28;
/// DMA registers, and where the device has its buffer.
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const TRANSFER: usize = 0x90;
const COMMAND: usize = 0x98;
const BUFFER: u32 = 0x4_0000;
/// Commands: run, and from the device to memory.
const RUN: u32 = 1;
const TO_MEMORY: u32 = 2;

/// Where `Device::kept` has the adapter, the common buffer and its address for the device.
const ADAPTER: usize = 0;
const VIRTUAL: usize = 1;
const LOGICAL: usize = 2;

const fn kept(device: &Device, what: usize) -> &AtomicU64 {
    &device.kept[what]
}

fn adapter(device: &Device) -> *mut DMA_ADAPTER {
    kept(device, ADAPTER).load(Ordering::Relaxed) as *mut DMA_ADAPTER
}

fn logical(device: &Device) -> u32 {
    kept(device, LOGICAL).load(Ordering::Relaxed) as u32
}

/// A function of the adapter.
macro_rules! operation {
    ($device:expr, $name:ident) => {{
        // SAFETY: the adapter lives until `release`.
        let operations = unsafe { (*adapter($device)).DmaOperations };
        // SAFETY: an adapter has operations.
        unsafe { (*operations).$name }.expect("adapters have it")
    }};
}

/// Gets an adapter.
pub fn get_adapter(device: &Device) -> NTSTATUS {
    let mut description = DEVICE_DESCRIPTION {
        Version: DEVICE_DESCRIPTION_VERSION3,
        Master: TRUE,
        ScatterGather: TRUE,
        InterfaceType: _INTERFACE_TYPE::PCIBus,
        MaximumLength: LENGTH,
        DmaAddressWidth: ADDRESS_BITS,
        ..DEVICE_DESCRIPTION::default()
    };
    let mut registers = 0;
    // SAFETY: IRQL is PASSIVE_LEVEL; both structures outlive the call.
    let made = unsafe { IoGetDmaAdapter(device.physical, (&raw mut description).cast(), &raw mut registers) };
    if made.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    kept(device, ADAPTER).store(made as u64, Ordering::Relaxed);
    STATUS_SUCCESS
}

/// Gets an adapter and a common buffer, unless the device was started before.
pub fn prepare(device: &Device, _: bool) -> NTSTATUS {
    if !adapter(device).is_null() {
        return STATUS_SUCCESS;
    }
    let status = get_adapter(device);
    if !irp::succeeded(status) {
        return status;
    }
    let allocate = operation!(device, AllocateCommonBuffer);
    let mut address = PHYSICAL_ADDRESS { QuadPart: 0 };
    // SAFETY: IRQL is PASSIVE_LEVEL; the address outlives the call.
    let buffer = unsafe { allocate(adapter(device), LENGTH, &raw mut address, TRUE) };
    if buffer.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    kept(device, VIRTUAL).store(buffer as u64, Ordering::Relaxed);
    // SAFETY: every bit pattern is a number.
    let address = unsafe { address.QuadPart };
    kept(device, LOGICAL).store(address.cast_unsigned(), Ordering::Relaxed);
    STATUS_SUCCESS
}

/// Frees the common buffer, if there is one.
fn free_buffer(device: &Device) {
    let buffer = kept(device, VIRTUAL).swap(0, Ordering::Relaxed);
    if buffer != 0 {
        let free = operation!(device, FreeCommonBuffer);
        let address = PHYSICAL_ADDRESS { QuadPart: kept(device, LOGICAL).load(Ordering::Relaxed).cast_signed() };
        // SAFETY: `prepare` allocated it; IRQL is PASSIVE_LEVEL.
        unsafe { free(adapter(device), LENGTH, address, buffer as PVOID, TRUE) };
    }
}

/// Frees what `prepare` got, if anything.
pub fn release(device: &Device, _: bool) -> NTSTATUS {
    if !adapter(device).is_null() {
        free_buffer(device);
        let put = operation!(device, PutDmaAdapter);
        // SAFETY: nothing of the adapter's is used any more.
        unsafe { put(adapter(device)) };
    }
    STATUS_SUCCESS
}

/// Tells the device to write to memory; it starts when [`run`] is called.
fn set_up(device: &Device, address: u32) {
    device.hardware.write(SOURCE, BUFFER);
    device.hardware.write(DESTINATION, address);
    device.hardware.write(TRANSFER, COUNT);
}

fn run(device: &Device) {
    device.hardware.write(COMMAND, RUN | TO_MEMORY);
}

/// Waits until the device is done.
fn wait(device: &Device) {
    while device.hardware.read(COMMAND) & RUN != 0 {
        pause();
    }
}

/// Waits for a millisecond.
pub fn pause() {
    let mut interval = LARGE_INTEGER { QuadPart: -10_000 };
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let _ = unsafe { KeDelayExecutionThread(0, 0, &raw mut interval) };
}

fn not_mapped(device: &Device, correct: bool) -> NTSTATUS {
    set_up(device, if correct { logical(device) } else { logical(device) + LENGTH });
    run(device); // DEFECT dma_not_mapped
    wait(device);
    STATUS_SUCCESS
}

fn beyond_the_mask(device: &Device, correct: bool) -> NTSTATUS {
    set_up(device, if correct { logical(device) } else { logical(device) | 1 << ADDRESS_BITS });
    run(device); // DEFECT dma_beyond_the_mask
    wait(device);
    STATUS_SUCCESS
}

fn freed_in_flight(device: &Device, correct: bool) -> NTSTATUS {
    set_up(device, logical(device));
    run(device);
    if correct {
        wait(device);
    }
    free_buffer(device); // DEFECT dma_freed_in_flight
    STATUS_SUCCESS
}

/// Where `Device::kept` has the list that is mapped.
const LIST: usize = 3;

/// Keeps the list until [`unmap`].
pub fn keep(device: &Device, list: PSCATTER_GATHER_LIST) {
    kept(device, LIST).store(list as u64, Ordering::Relaxed);
}

type ListControl = unsafe extern "C" fn(*mut DEVICE_OBJECT, *mut IRP, PSCATTER_GATHER_LIST, PVOID);

/// Maps the buffer of a request with `METHOD_OUT_DIRECT`; `routine` has to keep the list.
pub fn map(device: &Device, request: *mut IRP, routine: ListControl) {
    // SAFETY: the test sends such a request.
    let mdl: *mut MDL = unsafe { (*request).MdlAddress };
    // SAFETY: the I/O manager made it.
    let described = unsafe { &*mdl };
    let address = described.StartVa.wrapping_byte_add(described.ByteOffset as usize);
    let get = operation!(device, GetScatterGatherList);
    let context = ptr::from_ref(device).cast_mut().cast();
    raised(|| {
        // SAFETY: the MDL describes a locked buffer of COUNT bytes.
        let _ = unsafe { get(adapter(device), device.object, mdl, address, COUNT, Some(routine), context, 0) };
    });
}

/// Ends what [`map`] began.
#[expect(clippy::inline_always, reason = "the line with the mark is the caller's")]
#[inline(always)]
pub fn unmap(device: &Device) {
    let put = operation!(device, PutScatterGatherList);
    let list = kept(device, LIST).load(Ordering::Relaxed) as PSCATTER_GATHER_LIST;
    // SAFETY: the list is the one that was kept; that the device still uses it is what a defect gets wrong.
    raised(|| unsafe { put(adapter(device), list, 0) });
}

/// "`DRIVER_LIST_CONTROL` callback function": starts a transfer to the first element.
unsafe extern "C" fn start(_: *mut DEVICE_OBJECT, _: *mut IRP, list: PSCATTER_GATHER_LIST, context: PVOID) {
    // SAFETY: the context is the device that `map` passed.
    let device = unsafe { &*context.cast::<Device>() };
    keep(device, list);
    // SAFETY: a list has an element at least.
    let element = unsafe { &raw const (*list).Elements }.cast::<wdk_sys::SCATTER_GATHER_ELEMENT>();
    // SAFETY: as above.
    let element = unsafe { element.read() };
    // SAFETY: every bit pattern is a number.
    let address = unsafe { element.Address.QuadPart };
    set_up(device, address.cast_unsigned() as u32);
    run(device);
}

fn unmapped_in_flight(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    map(device, request, start);
    if correct {
        wait(device);
    }
    unmap(device); // DEFECT dma_unmapped_in_flight
    // SAFETY: the IRP is the driver's.
    unsafe { irp::complete(request, STATUS_SUCCESS, 0) }
}

fn outside_the_device(device: &Device, correct: bool) -> NTSTATUS {
    set_up(device, logical(device));
    device.hardware.write(SOURCE, if correct { BUFFER } else { BUFFER + LENGTH });
    run(device); // DEFECT dma_outside_the_device
    wait(device);
    STATUS_SUCCESS
}

fn buffer_freed_twice(device: &Device, correct: bool) -> NTSTATUS {
    let buffer = kept(device, VIRTUAL).load(Ordering::Relaxed);
    free_buffer(device);
    if !correct {
        let free = operation!(device, FreeCommonBuffer);
        let address = PHYSICAL_ADDRESS { QuadPart: kept(device, LOGICAL).load(Ordering::Relaxed).cast_signed() };
        // SAFETY: that the buffer is freed already is the defect.
        unsafe { free(adapter(device), LENGTH, address, buffer as PVOID, TRUE) }; // DEFECT dma_buffer_freed_twice
    }
    STATUS_SUCCESS
}

fn put(device: &Device) {
    let put = operation!(device, PutDmaAdapter);
    // SAFETY: the adapter exists; what of it is still used is the defects'.
    unsafe { put(adapter(device)) }; // DEFECT dma_adapter_put_with_buffer dma_adapter_put_with_list
}

fn put_with_buffer(device: &Device, correct: bool) -> NTSTATUS {
    if correct {
        free_buffer(device);
    }
    put(device);
    STATUS_SUCCESS
}

fn used_after_put(device: &Device, correct: bool) -> NTSTATUS {
    let allocate = operation!(device, AllocateCommonBuffer);
    let mut address = PHYSICAL_ADDRESS { QuadPart: 0 };
    free_buffer(device);
    if correct {
        put(device);
        return STATUS_SUCCESS;
    }
    let gone = adapter(device);
    put(device);
    // SAFETY: that the adapter is gone is the defect.
    unsafe { allocate(gone, LENGTH, &raw mut address, TRUE) }; // DEFECT dma_adapter_used_after_put
    STATUS_SUCCESS
}

/// "`DRIVER_LIST_CONTROL` callback function": keeps the list.
unsafe extern "C" fn keep_list(_: *mut DEVICE_OBJECT, _: *mut IRP, list: PSCATTER_GATHER_LIST, context: PVOID) {
    // SAFETY: the context is the device that was passed.
    keep(unsafe { &*context.cast::<Device>() }, list);
}

/// Maps `COUNT` bytes of a list of pages for the device; `beyond` is how far behind the start of the buffer they are.
fn map_part(device: &Device, mdl: *mut MDL, beyond: usize) {
    // SAFETY: the caller's list exists.
    let described = unsafe { &*mdl };
    let address = described.StartVa.wrapping_byte_add(described.ByteOffset as usize + beyond);
    let get = operation!(device, GetScatterGatherList);
    let context = ptr::from_ref(device).cast_mut().cast();
    raised(|| {
        // SAFETY: the list describes a buffer; what is wrong with that is the defects'.
        let _ = unsafe { get(adapter(device), device.object, mdl, address, COUNT, Some(keep_list), context, 0) }; // DEFECT dma_outside_the_buffer dma_buffer_not_locked
    });
}

/// Ends a request with a locked buffer.
fn end(request: *mut IRP) -> NTSTATUS {
    // SAFETY: the IRP is the driver's.
    unsafe { irp::complete(request, STATUS_SUCCESS, 0) }
}

fn put_with_list(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the test sends a request with METHOD_OUT_DIRECT.
    map_part(device, unsafe { (*request).MdlAddress }, 0);
    if correct {
        unmap(device);
    }
    free_buffer(device);
    put(device);
    end(request)
}

fn list_put_twice(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the test sends a request with METHOD_OUT_DIRECT.
    map_part(device, unsafe { (*request).MdlAddress }, 0);
    unmap(device);
    if !correct {
        unmap(device); // DEFECT dma_list_put_twice
    }
    end(request)
}

fn outside_the_buffer(device: &Device, request: *mut IRP, correct: bool) -> NTSTATUS {
    // SAFETY: the test sends a request with METHOD_OUT_DIRECT.
    map_part(device, unsafe { (*request).MdlAddress }, if correct { 0 } else { COUNT as usize });
    unmap(device);
    end(request)
}

fn buffer_not_locked(device: &Device, correct: bool) -> NTSTATUS {
    // SAFETY: IRQL is PASSIVE_LEVEL.
    let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED, COUNT.into(), TAG) };
    if block.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    // SAFETY: the list belongs to no IRP.
    let list = unsafe { IoAllocateMdl(block, COUNT, 0, 0, ptr::null_mut()) };
    if !list.is_null() {
        if correct {
            // SAFETY: the list describes nonpaged pool.
            unsafe { MmBuildMdlForNonPagedPool(list) };
        }
        map_part(device, list, 0);
        unmap(device);
        // SAFETY: allocated above, and not mapped any more.
        unsafe { IoFreeMdl(list) };
    }
    // SAFETY: allocated above, and not used any more.
    unsafe { ExFreePoolWithTag(block, TAG) };
    STATUS_SUCCESS
}
