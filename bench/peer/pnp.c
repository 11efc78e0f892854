/*
 * PnP. Its IRPs are never held, and come one at a time.
 */
#include "peer.h"

/* The reasons for holding requests that a start puts an end to; a device that has just been started is on, too. */
#define PEER_START_ENDS \
    (HOTADD_HOLD_NOT_STARTED | HOTADD_HOLD_PNP_STOP | HOTADD_HOLD_QUERY_REMOVE | HOTADD_HOLD_POWER)

/* Passes the IRP down as one that we have no objection to. */
static NTSTATUS PeerSucceed(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    Irp->IoStatus.Status = STATUS_SUCCESS;
    return PeerPassDown(Extension, Irp);
}

static VOID PeerCountRebalance(PDEVICE_EXTENSION Extension)
{
    KIRQL irql;

    KeAcquireSpinLock(&Extension->CounterLock, &irql);
    Extension->Counters.Rebalances++;
    KeReleaseSpinLock(&Extension->CounterLock, irql);
}

/* Lower drivers, the engine, then the interface, which a stop leaves enabled. */
static NTSTATUS PeerBringUp(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    NTSTATUS status = PeerForwardAndWait(Extension, Irp);

    if (NT_SUCCESS(status)) {
        status = PeerEngineStart(Extension, stack->Parameters.StartDevice.AllocatedResourcesTranslated);
    }
    if (!NT_SUCCESS(status) || Extension->PnpState == HOTADD_PNP_STATE_STOPPED) {
        return status;
    }
    status = IoSetDeviceInterfaceState(&Extension->InterfaceName, TRUE);
    if (!NT_SUCCESS(status)) {
        PeerEngineStop(Extension, FALSE);
    }
    return status;
}

/* IRP_MN_START_DEVICE, the first or after a stop. How the requests that were held end does not change its status. */
static NTSTATUS PeerStart(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    BOOLEAN isRestart;
    NTSTATUS status;

    if (Extension->PnpState != HOTADD_PNP_STATE_NOT_STARTED && Extension->PnpState != HOTADD_PNP_STATE_STOPPED) {
        return PeerEnd(Extension, Irp, STATUS_INVALID_DEVICE_STATE, 0);
    }
    isRestart = Extension->PnpState == HOTADD_PNP_STATE_STOPPED;
    status = PeerBringUp(Extension, Irp);
    PeerRecordStatus(Extension, isRestart ? HOTADD_EVENT_KIND_DEVICE_RESTARTED : HOTADD_EVENT_KIND_DEVICE_STARTED,
                     status);
    if (NT_SUCCESS(status)) {
        if (isRestart) {
            PeerCountRebalance(Extension);
        }
        Extension->PnpState = HOTADD_PNP_STATE_STARTED;
        Extension->LowerIsOff = FALSE;
        Extension->PowerState = PEER_POWER_ON;
        PeerReportPower(Extension, PowerDeviceD0);
        PeerRelease(Extension, PEER_START_ENDS);
        status = STATUS_SUCCESS;
    }
    return PeerEnd(Extension, Irp, status, 0);
}

/* IRP_MN_QUERY_STOP_DEVICE and IRP_MN_QUERY_REMOVE_DEVICE. */
static NTSTATUS PeerQuery(PDEVICE_EXTENSION Extension, PIRP Irp, ULONG State, ULONG Reason)
{
    HOTADD_EVENT event = {.Count = (ULONG64)Extension->FilesInPath};
    ULONG kind = Reason == HOTADD_HOLD_PNP_STOP ? HOTADD_EVENT_KIND_QUERY_STOP : HOTADD_EVENT_KIND_QUERY_REMOVE;

    if (Extension->PnpState == HOTADD_PNP_STATE_STARTED) {
        if (Extension->FilesInPath != 0) {
            event.Status = STATUS_DEVICE_BUSY;
            PeerRecord(Extension, kind, &event);
            return PeerEnd(Extension, Irp, STATUS_DEVICE_BUSY, 0);
        }
        PeerHold(Extension, Reason);
        Extension->PnpState = State;
    }
    PeerRecord(Extension, kind, &event);
    return PeerSucceed(Extension, Irp);
}

/* IRP_MN_CANCEL_STOP_DEVICE and IRP_MN_CANCEL_REMOVE_DEVICE, which may come without a query: lower drivers first. */
static NTSTATUS PeerCancelQuery(PDEVICE_EXTENSION Extension, PIRP Irp, ULONG State, ULONG Reason)
{
    ULONG kind = Reason == HOTADD_HOLD_PNP_STOP ? HOTADD_EVENT_KIND_CANCEL_STOP : HOTADD_EVENT_KIND_CANCEL_REMOVE;

    if (Extension->PnpState != State) {
        PeerRecordStatus(Extension, kind, STATUS_SUCCESS);
        return PeerSucceed(Extension, Irp);
    }
    /* A cancel cannot fail, whatever lower drivers answer. */
    (VOID)PeerForwardAndWait(Extension, Irp);
    Extension->PnpState = HOTADD_PNP_STATE_STARTED;
    PeerRecordStatus(Extension, kind, STATUS_SUCCESS);
    PeerRelease(Extension, Reason);
    return PeerEnd(Extension, Irp, STATUS_SUCCESS, 0);
}

/* IRP_MN_STOP_DEVICE. */
static NTSTATUS PeerStop(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    switch (Extension->PnpState) {
    case HOTADD_PNP_STATE_STARTED:
    case HOTADD_PNP_STATE_STOP_PENDING:
    case HOTADD_PNP_STATE_REMOVE_PENDING:
        PeerHold(Extension, HOTADD_HOLD_PNP_STOP);
        PeerEngineStop(Extension, TRUE);
        Extension->PnpState = HOTADD_PNP_STATE_STOPPED;
        break;
    default:
        break;
    }
    PeerRecordStatus(Extension, HOTADD_EVENT_KIND_DEVICE_STOPPED, STATUS_SUCCESS);
    return PeerSucceed(Extension, Irp);
}

/* Requests that wait fail now, none comes after them, those that are worked on end, and the hardware is let go. */
static VOID PeerLoseDevice(PDEVICE_EXTENSION Extension, BOOLEAN Abandon)
{
    PeerRefuse(Extension, STATUS_DELETE_PENDING);
    PeerRecordStatus(Extension, HOTADD_EVENT_KIND_GATE_REFUSING, STATUS_SUCCESS);
    if (Abandon) {
        PeerEngineAbandon(Extension, STATUS_DELETE_PENDING);
    }
    PeerDrain(Extension);
    PeerEngineStop(Extension, FALSE);
    /* Fails where it was never enabled, which leaves it as it should be. */
    (VOID)IoSetDeviceInterfaceState(&Extension->InterfaceName, FALSE);
}

/* IRP_MN_SURPRISE_REMOVAL. */
static NTSTATUS PeerSurpriseRemoval(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    if (Extension->PnpState != HOTADD_PNP_STATE_SURPRISE_REMOVED) {
        PeerLoseDevice(Extension, TRUE);
        Extension->PnpState = HOTADD_PNP_STATE_SURPRISE_REMOVED;
    }
    PeerRecordStatus(Extension, HOTADD_EVENT_KIND_SURPRISE_REMOVED, STATUS_SUCCESS);
    return PeerSucceed(Extension, Irp);
}

/* IRP_MN_REMOVE_DEVICE. */
static NTSTATUS PeerRemove(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    NTSTATUS status;

    PeerLoseDevice(Extension, FALSE);
    Extension->PnpState = HOTADD_PNP_STATE_REMOVED;
    PeerRecordStatus(Extension, HOTADD_EVENT_KIND_DEVICE_REMOVED, STATUS_SUCCESS);
    IoReleaseRemoveLockAndWait(&Extension->RemoveLock, Irp);
    /* The DPC that has completed the last request may not have returned yet. */
    KeFlushQueuedDpcs();
    Irp->IoStatus.Status = STATUS_SUCCESS;
    IoSkipCurrentIrpStackLocation(Irp);
    status = IoCallDriver(Extension->LowerDevice, Irp);
    PeerDeleteDevice(Extension);
    return status;
}

/* IRP_MN_QUERY_CAPABILITIES: lower drivers fill them in first. */
static NTSTATUS PeerQueryCapabilities(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    NTSTATUS status = PeerForwardAndWait(Extension, Irp);

    if (NT_SUCCESS(status)) {
        IoGetCurrentIrpStackLocation(Irp)->Parameters.DeviceCapabilities.Capabilities->SurpriseRemovalOK = TRUE;
    }
    return PeerEnd(Extension, Irp, status, Irp->IoStatus.Information);
}

/* IRP_MN_DEVICE_USAGE_NOTIFICATION: counts the files that keep the device from being stopped. */
static NTSTATUS PeerUsageNotification(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    HOTADD_EVENT event = {0};
    NTSTATUS status;

    switch (stack->Parameters.UsageNotification.Type) {
    case DeviceUsageTypePaging:
    case DeviceUsageTypeHibernation:
    case DeviceUsageTypeDumpFile:
        break;
    default:
        return PeerPassDown(Extension, Irp);
    }
    status = PeerForwardAndWait(Extension, Irp);
    if (NT_SUCCESS(status)) {
        IoAdjustPagingPathCount(&Extension->FilesInPath, stack->Parameters.UsageNotification.InPath);
        event.Count = (ULONG64)Extension->FilesInPath;
        PeerRecord(Extension, HOTADD_EVENT_KIND_USAGE_CHANGED, &event);
    }
    return PeerEnd(Extension, Irp, status, Irp->IoStatus.Information);
}

/* IRP_MJ_PNP. IRQL: PASSIVE_LEVEL. */
NTSTATUS NTAPI PeerDispatchPnp(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        Irp->IoStatus.Status = status;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return status;
    }
    switch (IoGetCurrentIrpStackLocation(Irp)->MinorFunction) {
    case IRP_MN_START_DEVICE:
        return PeerStart(extension, Irp);
    case IRP_MN_QUERY_STOP_DEVICE:
        return PeerQuery(extension, Irp, HOTADD_PNP_STATE_STOP_PENDING, HOTADD_HOLD_PNP_STOP);
    case IRP_MN_CANCEL_STOP_DEVICE:
        return PeerCancelQuery(extension, Irp, HOTADD_PNP_STATE_STOP_PENDING, HOTADD_HOLD_PNP_STOP);
    case IRP_MN_STOP_DEVICE:
        return PeerStop(extension, Irp);
    case IRP_MN_QUERY_REMOVE_DEVICE:
        return PeerQuery(extension, Irp, HOTADD_PNP_STATE_REMOVE_PENDING, HOTADD_HOLD_QUERY_REMOVE);
    case IRP_MN_CANCEL_REMOVE_DEVICE:
        return PeerCancelQuery(extension, Irp, HOTADD_PNP_STATE_REMOVE_PENDING, HOTADD_HOLD_QUERY_REMOVE);
    case IRP_MN_SURPRISE_REMOVAL:
        return PeerSurpriseRemoval(extension, Irp);
    case IRP_MN_REMOVE_DEVICE:
        return PeerRemove(extension, Irp);
    case IRP_MN_QUERY_CAPABILITIES:
        return PeerQueryCapabilities(extension, Irp);
    case IRP_MN_FILTER_RESOURCE_REQUIREMENTS:
        return PeerFilterRequirements(extension, Irp);
    case IRP_MN_DEVICE_USAGE_NOTIFICATION:
        return PeerUsageNotification(extension, Irp);
    default:
        return PeerPassDown(extension, Irp);
    }
}
