/*
 * Power: the device is on while the system works, else off; requests wait while it is off. The function driver owns
 * the power policy of its device.
 */
#include "peer.h"

static IO_COMPLETION_ROUTINE PeerSystemPowerForwarded;
static IO_COMPLETION_ROUTINE PeerPowerUpForwarded;
static REQUEST_POWER_COMPLETE PeerDevicePowerSet;
static IO_WORKITEM_ROUTINE PeerPowerWork;

/* IRQL: <= DISPATCH_LEVEL. */
VOID PeerReportPower(PDEVICE_EXTENSION Extension, DEVICE_POWER_STATE State)
{
    POWER_STATE power;

    power.DeviceState = State;
    PoSetPowerState(Extension->Self, DevicePowerState, power);
}

/* Holds requests, lets those that are worked on finish, saves the device's state. IRQL: PASSIVE_LEVEL. */
static VOID PeerTurnOff(PDEVICE_EXTENSION Extension)
{
    if (Extension->PowerState == PEER_POWER_OFF) {
        return;
    }
    PeerHold(Extension, HOTADD_HOLD_POWER);
    PeerEngineSleep(Extension, TRUE);
    Extension->PowerState = PEER_POWER_OFF;
    PeerReportPower(Extension, PowerDeviceD3);
    PeerRecordStatus(Extension, HOTADD_EVENT_KIND_POWER_DOWN, STATUS_SUCCESS);
}

/* Restores the device's state and lets requests go on. Where that fails they fail too, but not the power IRP: a
   function driver must not. IRQL: PASSIVE_LEVEL. */
static VOID PeerTurnOn(PDEVICE_EXTENSION Extension)
{
    NTSTATUS status;

    if (Extension->PowerState == PEER_POWER_ON) {
        return;
    }
    status = Extension->LowerIsOff ? STATUS_DEVICE_NOT_READY : PeerEngineWake(Extension);
    PeerRecordStatus(Extension, HOTADD_EVENT_KIND_POWER_UP, status);
    if (!NT_SUCCESS(status)) {
        PeerRefuse(Extension, STATUS_DEVICE_NOT_READY);
        return;
    }
    Extension->PowerState = PEER_POWER_ON;
    PeerReportPower(Extension, PowerDeviceD0);
    PeerRelease(Extension, HOTADD_HOLD_POWER);
}

/* Completes a power IRP with the status that it has. IRQL: <= DISPATCH_LEVEL. */
static VOID PeerCompletePower(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    IoReleaseRemoveLock(&Extension->RemoveLock, Irp);
}

/* What is left to do at PASSIVE_LEVEL for a power IRP that lower drivers are done with. */
static VOID NTAPI PeerPowerWork(PDEVICE_OBJECT DeviceObject, PVOID Context)
{
    PDEVICE_EXTENSION extension = Context;
    PIRP irp = extension->PowerIrp;

    UNREFERENCED_PARAMETER(DeviceObject);
    if (extension->PowerWanted) {
        PeerTurnOn(extension);
    } else {
        PeerTurnOff(extension);
    }
    PeerCompletePower(extension, irp);
}

/* One power IRP at a time comes here. IRQL: <= DISPATCH_LEVEL. */
static VOID PeerQueuePowerWork(PDEVICE_EXTENSION Extension, PIRP Irp, BOOLEAN Wanted)
{
    Extension->PowerIrp = Irp;
    Extension->PowerWanted = Wanted;
    IoQueueWorkItem(Extension->PowerWork, PeerPowerWork, DelayedWorkQueue, Extension);
}

/* Whatever became of the device's IRP: setting the system's state must not fail. IRQL: <= DISPATCH_LEVEL. */
static VOID NTAPI PeerDevicePowerSet(PDEVICE_OBJECT DeviceObject, UCHAR MinorFunction, POWER_STATE PowerState,
                                     PVOID Context, PIO_STATUS_BLOCK IoStatus)
{
    PDEVICE_EXTENSION extension = Context;

    UNREFERENCED_PARAMETER(DeviceObject);
    UNREFERENCED_PARAMETER(MinorFunction);
    UNREFERENCED_PARAMETER(PowerState);
    UNREFERENCED_PARAMETER(IoStatus);
    PeerCompletePower(extension, extension->SystemIrp);
}

/* Lower drivers have seen the system's state: now the device gets its own. IRQL: <= DISPATCH_LEVEL. */
static NTSTATUS NTAPI PeerSystemPowerForwarded(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Context)
{
    PDEVICE_EXTENSION extension = Context;
    BOOLEAN on = IoGetCurrentIrpStackLocation(Irp)->Parameters.Power.State.SystemState == PowerSystemWorking;
    POWER_STATE power;
    NTSTATUS status;

    UNREFERENCED_PARAMETER(DeviceObject);
    if (!NT_SUCCESS(Irp->IoStatus.Status)) {
        PeerCompletePower(extension, Irp);
        return STATUS_MORE_PROCESSING_REQUIRED;
    }
    power.DeviceState = on ? PowerDeviceD0 : PowerDeviceD3;
    extension->SystemIrp = Irp;
    status = PoRequestPowerIrp(extension->PhysicalDevice, IRP_MN_SET_POWER, power, PeerDevicePowerSet, extension, NULL);
    if (status != STATUS_PENDING) {
        PeerQueuePowerWork(extension, Irp, on);
    }
    return STATUS_MORE_PROCESSING_REQUIRED;
}

static NTSTATUS PeerSetSystemPower(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    IoMarkIrpPending(Irp);
    IoCopyCurrentIrpStackLocationToNext(Irp);
    IoSetCompletionRoutine(Irp, PeerSystemPowerForwarded, Extension, TRUE, TRUE, TRUE);
    (VOID)PoCallDriver(Extension->LowerDevice, Irp);
    return STATUS_PENDING;
}

/* Lower drivers may be done with it at DISPATCH_LEVEL, so a work item does the rest. */
static NTSTATUS NTAPI PeerPowerUpForwarded(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Context)
{
    PDEVICE_EXTENSION extension = Context;

    UNREFERENCED_PARAMETER(DeviceObject);
    if (NT_SUCCESS(Irp->IoStatus.Status)) {
        extension->LowerIsOff = FALSE;
        PeerQueuePowerWork(extension, Irp, TRUE);
    } else {
        PeerRefuse(extension, STATUS_DEVICE_NOT_READY);
        PeerCompletePower(extension, Irp);
    }
    return STATUS_MORE_PROCESSING_REQUIRED;
}

static NTSTATUS PeerSetDevicePower(PDEVICE_EXTENSION Extension, PIRP Irp, DEVICE_POWER_STATE State)
{
    if (State != PowerDeviceD0) {
        PeerTurnOff(Extension);
        PeerEngineSleep(Extension, FALSE);
        Extension->LowerIsOff = TRUE;
        Irp->IoStatus.Status = STATUS_SUCCESS;
        return PeerPassDown(Extension, Irp);
    }
    if (Extension->PowerState == PEER_POWER_ON) {
        return PeerPassDown(Extension, Irp);
    }
    IoMarkIrpPending(Irp);
    IoCopyCurrentIrpStackLocationToNext(Irp);
    IoSetCompletionRoutine(Irp, PeerPowerUpForwarded, Extension, TRUE, TRUE, TRUE);
    (VOID)PoCallDriver(Extension->LowerDevice, Irp);
    return STATUS_PENDING;
}

/* IRP_MJ_POWER, which is never held; a query is never rejected. IRQL: PASSIVE_LEVEL, by DO_POWER_PAGABLE. */
NTSTATUS NTAPI PeerDispatchPower(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        Irp->IoStatus.Status = status;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return status;
    }
    switch (stack->MinorFunction) {
    case IRP_MN_SET_POWER:
        if (stack->Parameters.Power.Type == SystemPowerState) {
            return PeerSetSystemPower(extension, Irp);
        }
        return PeerSetDevicePower(extension, Irp, stack->Parameters.Power.State.DeviceState);
    case IRP_MN_QUERY_POWER:
        Irp->IoStatus.Status = STATUS_SUCCESS;
        return PeerPassDown(extension, Irp);
    default:
        return PeerPassDown(extension, Irp);
    }
}
