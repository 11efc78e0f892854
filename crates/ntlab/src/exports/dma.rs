//! `IoGetDmaAdapter` and the functions of `DMA_OPERATIONS`.

use windows_sys::{
    Wdk::{
        Foundation::{DEVICE_OBJECT, MDL},
        System::SystemServices::{DEVICE_DESCRIPTION, DMA_ADAPTER},
    },
    Win32::Foundation::NTSTATUS,
};

use super::Export;
use crate::{
    at, export,
    finding::Finding,
    irql::{DISPATCH_LEVEL, PASSIVE_LEVEL, at_most, exactly},
    kernel::Kernel,
    memory::{PAGE, Ptr},
    pnp::scatter_gather::{self, Wanted},
};

/// The functions of this module that drivers import.
pub(super) const FUNCTIONS: &[Export] = &[export!("IoGetDmaAdapter", exactly(PASSIVE_LEVEL), io_get_dma_adapter)];

macro_rules! not_modelled {
    ($name:literal) => {{
        fn refuse(_: &Kernel) -> u64 {
            Finding::not_modelled(concat!("DMA_OPERATIONS: ", $name)).raise()
        }
        export!($name, at_most(DISPATCH_LEVEL), refuse)
    }};
}

/// `DMA_OPERATIONS` after its size, in order.
pub static OPERATIONS: [Export; 39] = [
    export!("PutDmaAdapter", at_most(DISPATCH_LEVEL), put_dma_adapter),
    export!("AllocateCommonBuffer", exactly(PASSIVE_LEVEL), allocate_common_buffer),
    export!("FreeCommonBuffer", exactly(PASSIVE_LEVEL), free_common_buffer),
    not_modelled!("AllocateAdapterChannel"),
    not_modelled!("FlushAdapterBuffers"),
    not_modelled!("FreeAdapterChannel"),
    not_modelled!("FreeMapRegisters"),
    not_modelled!("MapTransfer"),
    export!("GetDmaAlignment", exactly(PASSIVE_LEVEL), get_dma_alignment),
    not_modelled!("ReadDmaCounter"),
    export!("GetScatterGatherList", exactly(DISPATCH_LEVEL), get_scatter_gather_list),
    export!("PutScatterGatherList", exactly(DISPATCH_LEVEL), put_scatter_gather_list),
    not_modelled!("CalculateScatterGatherList"),
    not_modelled!("BuildScatterGatherList"),
    not_modelled!("BuildMdlFromScatterGatherList"),
    not_modelled!("GetDmaAdapterInfo"),
    not_modelled!("GetDmaTransferInfo"),
    not_modelled!("InitializeDmaTransferContext"),
    not_modelled!("AllocateCommonBufferEx"),
    not_modelled!("AllocateAdapterChannelEx"),
    not_modelled!("ConfigureAdapterChannel"),
    not_modelled!("CancelAdapterChannel"),
    not_modelled!("MapTransferEx"),
    not_modelled!("GetScatterGatherListEx"),
    not_modelled!("BuildScatterGatherListEx"),
    not_modelled!("FlushAdapterBuffersEx"),
    not_modelled!("FreeAdapterObject"),
    not_modelled!("CancelMappedTransfer"),
    not_modelled!("AllocateDomainCommonBuffer"),
    not_modelled!("FlushDmaBuffer"),
    not_modelled!("JoinDmaDomain"),
    not_modelled!("LeaveDmaDomain"),
    not_modelled!("GetDmaDomain"),
    not_modelled!("AllocateCommonBufferWithBounds"),
    not_modelled!("AllocateCommonBufferVector"),
    not_modelled!("GetCommonBufferFromVectorByIndex"),
    not_modelled!("FreeCommonBufferFromVector"),
    not_modelled!("FreeCommonBufferVector"),
    not_modelled!("CreateCommonBufferFromMdl"),
];

/// "`IoGetDmaAdapter` function". Bus-master devices only; null for a device object that is no physical one.
fn io_get_dma_adapter(
    k: &Kernel,
    pdo: Ptr<DEVICE_OBJECT>,
    description: Ptr<DEVICE_DESCRIPTION>,
    map_registers: Ptr<u32>,
) -> Ptr<DMA_ADAPTER> {
    if k.pnp.devnodes.of(pdo).is_none() {
        return Ptr::null();
    }
    if at!(description, Master).cast::<u8>().read() == 0 {
        Finding::not_modelled("IoGetDmaAdapter: a device that is no bus master").raise();
    }
    let length = u64::from(at!(description, MaximumLength).read());
    map_registers.write(u32::try_from(length.div_ceil(PAGE) + 1).unwrap_or(u32::MAX));
    k.pnp.adapters.make(k, pdo, description)
}

/// "`PPUT_DMA_ADAPTER` callback function".
fn put_dma_adapter(k: &Kernel, adapter: Ptr<DMA_ADAPTER>) {
    k.pnp.adapters.put(k, adapter);
}

/// "`PALLOCATE_COMMON_BUFFER` callback function".
fn allocate_common_buffer(
    k: &Kernel,
    adapter: Ptr<DMA_ADAPTER>,
    length: u32,
    logical: Ptr<u64>,
    _cached: bool,
) -> Ptr<u8> {
    let Some((buffer, address)) = k.pnp.adapters.allocate(k, adapter, length) else { return Ptr::null() };
    logical.write(address);
    buffer
}

/// "`PFREE_COMMON_BUFFER` callback function".
fn free_common_buffer(
    k: &Kernel,
    adapter: Ptr<DMA_ADAPTER>,
    length: u32,
    logical: u64,
    buffer: Ptr<u8>,
    _cached: bool,
) {
    k.pnp.adapters.free(k, adapter, buffer, logical, length);
}

/// "`PGET_SCATTER_GATHER_LIST` callback function".
#[allow(clippy::too_many_arguments, reason = "the DDI has them")]
fn get_scatter_gather_list(
    k: &Kernel,
    adapter: Ptr<DMA_ADAPTER>,
    device: Ptr<DEVICE_OBJECT>,
    mdl: Ptr<MDL>,
    address: u64,
    length: u32,
    routine: u64,
    context: u64,
    to_device: bool,
) -> NTSTATUS {
    scatter_gather::get(k, Wanted { adapter, device, mdl, address, length, to_device }, routine, context)
}

/// "`PPUT_SCATTER_GATHER_LIST` callback function".
fn put_scatter_gather_list(k: &Kernel, adapter: Ptr<DMA_ADAPTER>, list: Ptr<u8>, to_device: bool) {
    scatter_gather::put(k, adapter, list, to_device);
}

/// "`PGET_DMA_ALIGNMENT` callback function".
const fn get_dma_alignment(_: &Kernel, _adapter: Ptr<DMA_ADAPTER>) -> u32 {
    1
}
