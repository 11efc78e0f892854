/*
 * The processors: a block for each, made when its addition starts.
 */
#include "peer.h"

static PROCESSOR_CALLBACK_FUNCTION PeerProcessorChange;

/* The block of a processor, or NULL. Good on that processor, and under the lock. IRQL: any. */
PPEER_PROCESSOR PeerProcessor(ULONG Index)
{
    return Index < PeerGlobals.ProcessorMaximum ? PeerGlobals.Processors[Index] : NULL;
}

/* IRQL: >= DISPATCH_LEVEL, so that the thread stays on its processor. */
PPEER_PROCESSOR PeerCurrentProcessor(VOID)
{
    return PeerProcessor(KeGetCurrentProcessorNumberEx(NULL));
}

/* The processor may run our code as soon as this returns. */
static NTSTATUS PeerAddStart(PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT Change)
{
    PPEER_PROCESSOR processor;

    if (Change->NtNumber >= PeerGlobals.ProcessorMaximum) {
        return STATUS_INVALID_PARAMETER;
    }
    processor = ExAllocatePool2(POOL_FLAG_NON_PAGED | POOL_FLAG_CACHE_ALIGNED, sizeof(*processor), PEER_TAG);
    if (processor == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    processor->Number = Change->ProcNumber;
    processor->JoinedAt = KeQueryInterruptTime();
    InterlockedExchangePointer((PVOID *)&PeerGlobals.Processors[Change->NtNumber], processor);
    InterlockedIncrement(&PeerGlobals.ProcessorsKnown);
    return STATUS_SUCCESS;
}

static VOID PeerAddComplete(PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT Change)
{
    PPEER_PROCESSOR processor = PeerProcessor(Change->NtNumber);

    if (processor != NULL) {
        processor->Joined = TRUE;
        InterlockedIncrement(&PeerGlobals.ProcessorsJoined);
    }
}

/* The processor was not added: none of its threads uses the block. */
static VOID PeerAddFailure(PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT Change)
{
    PPEER_PROCESSOR processor = PeerProcessor(Change->NtNumber);
    KIRQL irql;

    if (processor == NULL) {
        return;
    }
    KeAcquireSpinLock(&PeerGlobals.ProcessorLock, &irql);
    PeerGlobals.Processors[Change->NtNumber] = NULL;
    KeReleaseSpinLock(&PeerGlobals.ProcessorLock, irql);
    InterlockedDecrement(&PeerGlobals.ProcessorsKnown);
    ExFreePoolWithTag(processor, PEER_TAG);
}

static VOID PeerRecordProcessor(ULONG Kind, PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT Change, NTSTATUS Status)
{
    HOTADD_EVENT event = {
        .Processor = Change->NtNumber,
        .Group = Change->ProcNumber.Group,
        .Number = Change->ProcNumber.Number,
        .Status = Status,
        .Count = (ULONG64)PeerGlobals.ProcessorsKnown,
    };

    PeerRecord(NULL, Kind, &event);
}

/* IRQL: PASSIVE_LEVEL. Only an AddStart that fails writes OperationStatus. */
static VOID NTAPI PeerProcessorChange(PVOID Context, PKE_PROCESSOR_CHANGE_NOTIFY_CONTEXT Change,
                                      PNTSTATUS OperationStatus)
{
    NTSTATUS status;

    UNREFERENCED_PARAMETER(Context);
    switch (Change->State) {
    case KeProcessorAddStartNotify:
        status = PeerAddStart(Change);
        if (NT_SUCCESS(status)) {
            PeerRecordProcessor(HOTADD_EVENT_KIND_PROCESSOR_ADD_START, Change, STATUS_SUCCESS);
        } else {
            PeerGlobals.ProcessorCallbackStatus = status;
            *OperationStatus = status;
            PeerRecordProcessor(HOTADD_EVENT_KIND_PROCESSOR_VETOED, Change, status);
        }
        break;
    case KeProcessorAddCompleteNotify:
        PeerAddComplete(Change);
        PeerRecordProcessor(HOTADD_EVENT_KIND_PROCESSOR_ADD_COMPLETE, Change, STATUS_SUCCESS);
        break;
    case KeProcessorAddFailureNotify:
        PeerAddFailure(Change);
        PeerRecordProcessor(HOTADD_EVENT_KIND_PROCESSOR_ADD_FAILURE, Change, Change->Status);
        break;
    }
}

/* Makes the blocks of the processors that there are, and of those to come. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerRegisterProcessors(VOID)
{
    NTSTATUS status;

    KeInitializeSpinLock(&PeerGlobals.ProcessorLock);
    PeerGlobals.ProcessorMaximum = KeQueryMaximumProcessorCountEx(ALL_PROCESSOR_GROUPS);
    PeerGlobals.Processors = ExAllocatePool2(POOL_FLAG_NON_PAGED,
                                             PeerGlobals.ProcessorMaximum * sizeof(PPEER_PROCESSOR), PEER_TAG);
    if (PeerGlobals.Processors == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    PeerGlobals.ProcessorCallback =
        KeRegisterProcessorChangeCallback(PeerProcessorChange, NULL, KE_PROCESSOR_CHANGE_ADD_EXISTING);
    if (PeerGlobals.ProcessorCallback != NULL) {
        return STATUS_SUCCESS;
    }
    status = PeerGlobals.ProcessorCallbackStatus;
    PeerUnregisterProcessors();
    return NT_SUCCESS(status) ? STATUS_UNSUCCESSFUL : status;
}

/* IRQL: PASSIVE_LEVEL. */
VOID PeerUnregisterProcessors(VOID)
{
    if (PeerGlobals.ProcessorCallback != NULL) {
        KeDeregisterProcessorChangeCallback(PeerGlobals.ProcessorCallback);
    }
    for (ULONG index = 0; index < PeerGlobals.ProcessorMaximum; index++) {
        if (PeerGlobals.Processors[index] != NULL) {
            ExFreePoolWithTag(PeerGlobals.Processors[index], PEER_TAG);
        }
    }
    ExFreePoolWithTag(PeerGlobals.Processors, PEER_TAG);
}

static ULONG PeerNodeOf(PROCESSOR_NUMBER Number)
{
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX information;
    ULONG length = sizeof(information);
    NTSTATUS status = KeQueryLogicalProcessorRelationship(&Number, RelationNumaNode, &information, &length);

    return NT_SUCCESS(status) ? information.NumaNode.NodeNumber : 0;
}

/* Copies what is known of a processor; FALSE where nothing is. IRQL: <= DISPATCH_LEVEL. */
static BOOLEAN PeerReadProcessor(ULONG Index, PHOTADD_PROCESSOR_STATISTICS Statistics, PPROCESSOR_NUMBER Number)
{
    PPEER_PROCESSOR processor;
    KIRQL irql;

    KeAcquireSpinLock(&PeerGlobals.ProcessorLock, &irql);
    processor = PeerProcessor(Index);
    if (processor != NULL) {
        *Number = processor->Number;
        Statistics->Index = Index;
        Statistics->Group = processor->Number.Group;
        Statistics->Number = processor->Number.Number;
        Statistics->Steered = processor->Joined;
        Statistics->EarlyRequests = processor->EarlyRequests;
        Statistics->Interrupts = processor->Interrupts;
        Statistics->Dpcs = processor->Dpcs;
        Statistics->Requests = processor->Requests;
        Statistics->JoinedAt = processor->JoinedAt;
    }
    KeReleaseSpinLock(&PeerGlobals.ProcessorLock, irql);
    return processor != NULL;
}

/* IOCTL_HOTADD_PROCESSORS. IRQL: <= DISPATCH_LEVEL. */
NTSTATUS PeerProcessorStatistics(PIRP Irp, PIO_STACK_LOCATION Stack, PULONG_PTR Information)
{
    HOTADD_PROCESSORS_INPUT input;
    PHOTADD_PROCESSORS_OUTPUT front = Irp->AssociatedIrp.SystemBuffer;
    PHOTADD_PROCESSOR_STATISTICS entry = (PHOTADD_PROCESSOR_STATISTICS)(front + 1);
    ULONG room = Stack->Parameters.DeviceIoControl.OutputBufferLength;
    HOTADD_PROCESSOR_STATISTICS statistics;
    PROCESSOR_NUMBER number;

    if (Stack->Parameters.DeviceIoControl.InputBufferLength != sizeof(input)) {
        return STATUS_INFO_LENGTH_MISMATCH;
    }
    input = *(PHOTADD_PROCESSORS_INPUT)Irp->AssociatedIrp.SystemBuffer;
    if (input.Reserved != 0) {
        return STATUS_INVALID_PARAMETER;
    }
    if (room < sizeof(*front) + sizeof(*entry)) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    room = (room - sizeof(*front)) / sizeof(*entry);
    front->Count = 0;
    front->Next = 0;
    for (ULONG index = input.First; index < PeerGlobals.ProcessorMaximum; index++) {
        if (!PeerReadProcessor(index, &statistics, &number)) {
            continue;
        }
        if (front->Count == room) {
            front->Next = index;
            break;
        }
        statistics.Node = PeerNodeOf(number);
        entry[front->Count++] = statistics;
    }
    *Information = sizeof(*front) + front->Count * sizeof(*entry);
    return STATUS_SUCCESS;
}
