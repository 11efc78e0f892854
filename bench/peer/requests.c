/*
 * Requests: what they ask is checked here, in the order that the interface promises.
 */
#include "peer.h"

/* IRP_MJ_CREATE. IRQL: PASSIVE_LEVEL. */
NTSTATUS NTAPI PeerDispatchCreate(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        Irp->IoStatus.Status = status;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return status;
    }
    status = extension->RefuseStatus == STATUS_DELETE_PENDING ? STATUS_NO_SUCH_DEVICE : STATUS_SUCCESS;
    return PeerEnd(extension, Irp, status, 0);
}

/* IRP_MJ_CLEANUP: the last handle is closed, and what it has queued ends. IRQL: PASSIVE_LEVEL. */
NTSTATUS NTAPI PeerDispatchCleanup(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        Irp->IoStatus.Status = status;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return status;
    }
    PeerFailQueued(extension, IoGetCurrentIrpStackLocation(Irp)->FileObject, STATUS_CANCELLED);
    PeerCancelWaiters(IoGetCurrentIrpStackLocation(Irp)->FileObject);
    return PeerEnd(extension, Irp, STATUS_SUCCESS, 0);
}

/* IRP_MJ_CLOSE. IRQL: PASSIVE_LEVEL. */
NTSTATUS NTAPI PeerDispatchClose(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        Irp->IoStatus.Status = status;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return status;
    }
    return PeerEnd(extension, Irp, STATUS_SUCCESS, 0);
}

static NTSTATUS PeerCheckTransfer(PDEVICE_EXTENSION Extension, PIO_STACK_LOCATION Stack)
{
    /* Reads and writes have the same parameters. */
    LONGLONG offset = Stack->Parameters.Read.ByteOffset.QuadPart;
    ULONG length = Stack->Parameters.Read.Length;
    LONGLONG end = PeerBufferBytes(Extension);

    if (offset < 0 || offset > MAXLONGLONG - length) {
        return STATUS_INVALID_PARAMETER;
    }
    if (offset > end || (offset == end && length != 0)) {
        return Stack->MajorFunction == IRP_MJ_READ ? STATUS_END_OF_FILE : STATUS_DISK_FULL;
    }
    return offset + length > end ? STATUS_INVALID_BUFFER_SIZE : STATUS_SUCCESS;
}

/* IRP_MJ_READ and IRP_MJ_WRITE. IRQL: <= DISPATCH_LEVEL. */
NTSTATUS NTAPI PeerDispatchReadWrite(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        Irp->IoStatus.Status = status;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return status;
    }
    status = PeerCheckTransfer(extension, stack);
    if (!NT_SUCCESS(status)) {
        return PeerEnd(extension, Irp, status, 0);
    }
    if (stack->Parameters.Read.Length == 0) {
        status = extension->RefuseStatus == STATUS_DELETE_PENDING ? STATUS_DELETE_PENDING : STATUS_SUCCESS;
        return PeerEnd(extension, Irp, status, 0);
    }
    /* Mapped here, where it may still fail; the engine finds it mapped. */
    if (MmGetSystemAddressForMdlSafe(Irp->MdlAddress, NormalPagePriority | MdlMappingNoExecute) == NULL) {
        return PeerEnd(extension, Irp, STATUS_INSUFFICIENT_RESOURCES, 0);
    }
    return PeerSubmit(extension, Irp);
}

static NTSTATUS PeerCheckFactorial(PIRP Irp, PIO_STACK_LOCATION Stack)
{
    PHOTADD_FACTORIAL_INPUT input = Irp->AssociatedIrp.SystemBuffer;

    if (Stack->Parameters.DeviceIoControl.InputBufferLength != sizeof(*input)) {
        return STATUS_INFO_LENGTH_MISMATCH;
    }
    if (input->Reserved != 0) {
        return STATUS_INVALID_PARAMETER;
    }
    if (Stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(HOTADD_FACTORIAL_OUTPUT)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    return STATUS_SUCCESS;
}

static VOID PeerReadQueueStatus(PDEVICE_EXTENSION Extension, PHOTADD_STATUS Status)
{
    KIRQL irql;

    KeAcquireSpinLock(&Extension->QueueLock, &irql);
    if (Extension->RefuseStatus == STATUS_DELETE_PENDING) {
        Status->Gate = HOTADD_GATE_REFUSING;
    } else {
        Status->Gate = Extension->HoldReasons != 0 ? HOTADD_GATE_HOLDING : HOTADD_GATE_RUNNING;
    }
    Status->HoldReasons = Extension->HoldReasons;
    Status->Held = Extension->HoldReasons != 0 ? Extension->QueueLength : 0;
    Status->LastHoldDuration = Extension->LastHoldDuration;
    Status->LastHoldWaited = Extension->LastHoldWaited;
    Status->Waited = Extension->Waited;
    KeReleaseSpinLock(&Extension->QueueLock, irql);
}

static VOID PeerReadInterruptStatus(PPEER_EDU Edu, PHOTADD_STATUS Status)
{
    if (Edu->Interrupt == NULL) {
        Status->InterruptMode = HOTADD_INTERRUPT_MODE_NONE;
        return;
    }
    Status->InterruptMode = Edu->InterruptVersion == CONNECT_MESSAGE_BASED ? HOTADD_INTERRUPT_MODE_MESSAGE
                                                                           : HOTADD_INTERRUPT_MODE_LINE;
    Status->InterruptMessages = Edu->InterruptMessages;
    Status->InterruptGroup = Edu->InterruptGroup;
    Status->InterruptAffinity = Edu->InterruptAffinity;
}

static VOID PeerReadCounters(PDEVICE_EXTENSION Extension, PHOTADD_STATUS Status)
{
    KIRQL irql;

    KeAcquireSpinLock(&Extension->CounterLock, &irql);
    Status->Accepted = Extension->Counters.Accepted;
    Status->Completed = Extension->Counters.Completed;
    Status->Cancelled = Extension->Counters.Cancelled;
    Status->Failed = Extension->Counters.Failed;
    Status->Rebalances = Extension->Counters.Rebalances;
    Status->Timeouts = Extension->Counters.Timeouts;
    KeReleaseSpinLock(&Extension->CounterLock, irql);
}

/* IOCTL_HOTADD_STATUS. IRQL: <= DISPATCH_LEVEL. */
static NTSTATUS PeerStatus(PDEVICE_EXTENSION Extension, PIRP Irp, PIO_STACK_LOCATION Stack, PULONG_PTR Information)
{
    PHOTADD_STATUS status = Irp->AssociatedIrp.SystemBuffer;

    if (Stack->Parameters.DeviceIoControl.InputBufferLength != 0) {
        return STATUS_INFO_LENGTH_MISMATCH;
    }
    if (Stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(*status)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    RtlZeroMemory(status, sizeof(*status));
    status->ProcessorsMaximum = PeerGlobals.ProcessorMaximum;
    status->ProcessorsActive = KeQueryActiveProcessorCountEx(ALL_PROCESSOR_GROUPS);
    status->ProcessorsKnown = (ULONG)PeerGlobals.ProcessorsKnown;
    status->ProcessorsSteered = (ULONG)PeerGlobals.ProcessorsJoined;
    status->PnpState = Extension->PnpState;
    status->Engine = Extension->Engine;
    status->PowerState = Extension->PowerState;
    status->BufferBytes = PeerBufferBytes(Extension);
    status->MemoryBytesAtLoad = PeerGlobals.MemoryBytesAtLoad;
    status->MemoryBytes = (ULONG64)PeerGlobals.MemoryBytes;
    status->JournalNext = PeerJournalNext();
    status->Now = KeQueryInterruptTime();
    status->Device = Extension->Number;
    PeerReadInterruptStatus(&Extension->Edu, status);
    PeerReadQueueStatus(Extension, status);
    PeerReadCounters(Extension, status);
    *Information = sizeof(*status);
    return STATUS_SUCCESS;
}

/* IRP_MJ_DEVICE_CONTROL. IRQL: <= DISPATCH_LEVEL. */
NTSTATUS NTAPI PeerDispatchDeviceControl(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    ULONG_PTR information = 0;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        Irp->IoStatus.Status = status;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return status;
    }
    switch (stack->Parameters.DeviceIoControl.IoControlCode) {
    case IOCTL_HOTADD_FACTORIAL:
        status = PeerCheckFactorial(Irp, stack);
        if (NT_SUCCESS(status)) {
            return PeerSubmit(extension, Irp);
        }
        break;
    case IOCTL_HOTADD_STATUS:
        status = PeerStatus(extension, Irp, stack, &information);
        break;
    case IOCTL_HOTADD_PROCESSORS:
        status = PeerProcessorStatistics(Irp, stack, &information);
        break;
    case IOCTL_HOTADD_JOURNAL_READ:
        status = PeerJournalRead(Irp, stack, &information);
        break;
    case IOCTL_HOTADD_JOURNAL_WAIT:
        return PeerJournalWait(extension, Irp, stack);
    default:
        status = STATUS_INVALID_DEVICE_REQUEST;
        break;
    }
    return PeerEnd(extension, Irp, status, information);
}
