/*
 * The queue that every request passes, holding and releasing what is in it, and the end of requests.
 */
#include "peer.h"

static PDEVICE_EXTENSION PeerExtensionOf(PIO_CSQ Csq)
{
    return CONTAINING_RECORD(Csq, DEVICE_EXTENSION, Csq);
}

/* IRQL: DISPATCH_LEVEL, under the queue's lock, as the next two. */
static NTSTATUS NTAPI PeerCsqInsertIrp(PIO_CSQ Csq, PIRP Irp, PVOID InsertContext)
{
    PDEVICE_EXTENSION extension = PeerExtensionOf(Csq);

    UNREFERENCED_PARAMETER(InsertContext);
    if (!NT_SUCCESS(extension->RefuseStatus)) {
        return extension->RefuseStatus;
    }
    InsertTailList(&extension->Queue, &Irp->Tail.Overlay.ListEntry);
    extension->QueueLength++;
    if (extension->HoldReasons != 0) {
        extension->Waited++;
    }
    return STATUS_SUCCESS;
}

static VOID NTAPI PeerCsqRemoveIrp(PIO_CSQ Csq, PIRP Irp)
{
    RemoveEntryList(&Irp->Tail.Overlay.ListEntry);
    PeerExtensionOf(Csq)->QueueLength--;
}

/* PeekContext is the queue itself for the engine, which gets none while requests are held; else the file object whose
   requests are wanted, or NULL for all. */
static PIRP NTAPI PeerCsqPeekNextIrp(PIO_CSQ Csq, PIRP Irp, PVOID PeekContext)
{
    PDEVICE_EXTENSION extension = PeerExtensionOf(Csq);
    PLIST_ENTRY next = Irp == NULL ? extension->Queue.Flink : Irp->Tail.Overlay.ListEntry.Flink;
    PIRP irp;

    if (PeekContext == Csq) {
        if (extension->HoldReasons != 0) {
            return NULL;
        }
        PeekContext = NULL;
    }
    for (; next != &extension->Queue; next = next->Flink) {
        irp = CONTAINING_RECORD(next, IRP, Tail.Overlay.ListEntry);
        if (PeekContext == NULL || IoGetCurrentIrpStackLocation(irp)->FileObject == PeekContext) {
            return irp;
        }
    }
    return NULL;
}

static VOID NTAPI PeerCsqAcquireLock(PIO_CSQ Csq, PKIRQL Irql)
{
    KeAcquireSpinLock(&PeerExtensionOf(Csq)->QueueLock, Irql);
}

static VOID NTAPI PeerCsqReleaseLock(PIO_CSQ Csq, KIRQL Irql)
{
    KeReleaseSpinLock(&PeerExtensionOf(Csq)->QueueLock, Irql);
}

static VOID NTAPI PeerCsqCompleteCanceledIrp(PIO_CSQ Csq, PIRP Irp)
{
    PeerFinish(PeerExtensionOf(Csq), Irp, STATUS_CANCELLED, 0, KeGetCurrentProcessorNumberEx(NULL));
}

/* A queue that holds requests until the device is started. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerInitializeQueue(PDEVICE_EXTENSION Extension)
{
    KeInitializeSpinLock(&Extension->QueueLock);
    InitializeListHead(&Extension->Queue);
    Extension->HoldReasons = HOTADD_HOLD_NOT_STARTED;
    Extension->HoldSince = KeQueryInterruptTime();
    return IoCsqInitializeEx(&Extension->Csq, PeerCsqInsertIrp, PeerCsqRemoveIrp, PeerCsqPeekNextIrp,
                             PeerCsqAcquireLock, PeerCsqReleaseLock, PeerCsqCompleteCanceledIrp);
}

/* A request counts before it is in the queue, because it can end as soon as it is. */
static VOID PeerCountAccepted(PDEVICE_EXTENSION Extension)
{
    PPEER_PROCESSOR processor;
    KIRQL irql;

    KeAcquireSpinLock(&Extension->CounterLock, &irql);
    Extension->Counters.Accepted++;
    processor = PeerCurrentProcessor();
    if (processor != NULL && !processor->Joined) {
        processor->EarlyRequests++;
    }
    KeReleaseSpinLock(&Extension->CounterLock, irql);
}

static VOID PeerUncountAccepted(PDEVICE_EXTENSION Extension)
{
    KIRQL irql;

    KeAcquireSpinLock(&Extension->CounterLock, &irql);
    Extension->Counters.Accepted--;
    KeReleaseSpinLock(&Extension->CounterLock, irql);
}

static VOID PeerCountEnded(PDEVICE_EXTENSION Extension, NTSTATUS Status, ULONG Processor)
{
    PPEER_PROCESSOR processor;
    KIRQL irql;

    KeAcquireSpinLock(&Extension->CounterLock, &irql);
    if (NT_SUCCESS(Status)) {
        Extension->Counters.Completed++;
    } else if (Status == STATUS_CANCELLED) {
        Extension->Counters.Cancelled++;
    } else {
        Extension->Counters.Failed++;
    }
    processor = PeerProcessor(Processor);
    if (processor != NULL) {
        processor->Requests++;
    }
    KeReleaseSpinLock(&Extension->CounterLock, irql);
}

/* Accepts a request that was found good. The caller's file object keeps the device until the dispatch routine returns.
   IRQL: <= DISPATCH_LEVEL. */
NTSTATUS PeerSubmit(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    NTSTATUS status;

    PeerCountAccepted(Extension);
    status = IoCsqInsertIrpEx(&Extension->Csq, Irp, NULL, NULL);
    if (!NT_SUCCESS(status)) {
        PeerUncountAccepted(Extension);
        return PeerEnd(Extension, Irp, status, 0);
    }
    PeerEngineKick(Extension);
    return STATUS_PENDING;
}

/* The next request for the engine, or NULL. IRQL: <= DISPATCH_LEVEL. */
PIRP PeerTakeRequest(PDEVICE_EXTENSION Extension)
{
    return IoCsqRemoveNextIrp(&Extension->Csq, &Extension->Csq);
}

/* Completes a request that was accepted and is in no queue. IRQL: <= DISPATCH_LEVEL. */
VOID PeerFinish(PDEVICE_EXTENSION Extension, PIRP Irp, NTSTATUS Status, ULONG_PTR Information, ULONG Processor)
{
    PeerCountEnded(Extension, Status, Processor);
    Irp->IoStatus.Status = Status;
    Irp->IoStatus.Information = Information;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    IoReleaseRemoveLock(&Extension->RemoveLock, Irp);
}

/* The engine is about to take requests. IRQL: <= DISPATCH_LEVEL. */
VOID PeerEngineEnter(PDEVICE_EXTENSION Extension)
{
    InterlockedIncrement(&Extension->Busy);
}

/* It is done with those that it took. */
VOID PeerEngineLeave(PDEVICE_EXTENSION Extension)
{
    if (InterlockedDecrement(&Extension->Busy) == 0 && Extension->Draining != 0) {
        KeSetEvent(&Extension->Drained, IO_NO_INCREMENT, FALSE);
    }
}

/* Waits until the engine works on nothing; the caller has seen to it that it takes nothing more. Several may wait: who
   finds that it is over wakes the others. IRQL: PASSIVE_LEVEL. */
VOID PeerDrain(PDEVICE_EXTENSION Extension)
{
    InterlockedIncrement(&Extension->Draining);
    for (;;) {
        KeClearEvent(&Extension->Drained);
        if (InterlockedCompareExchange(&Extension->Busy, 0, 0) == 0) {
            break;
        }
        KeWaitForSingleObject(&Extension->Drained, Executive, KernelMode, FALSE, NULL);
    }
    KeSetEvent(&Extension->Drained, IO_NO_INCREMENT, FALSE);
    InterlockedDecrement(&Extension->Draining);
}

/* Holds requests for a reason, and waits for those that the engine has. IRQL: PASSIVE_LEVEL. */
VOID PeerHold(PDEVICE_EXTENSION Extension, ULONG Reason)
{
    HOTADD_EVENT event = {.Count = Reason};
    BOOLEAN isHeld;
    ULONG64 since;
    KIRQL irql;

    KeAcquireSpinLock(&Extension->QueueLock, &irql);
    if (Extension->HoldReasons == 0) {
        Extension->HoldSince = KeQueryInterruptTime();
        Extension->WaitedBefore = Extension->Waited;
        /* Those that wait for their turn wait on. */
        Extension->Waited += Extension->QueueLength;
    }
    isHeld = (Extension->HoldReasons & Reason) != 0;
    Extension->HoldReasons |= Reason;
    since = Extension->HoldSince;
    KeReleaseSpinLock(&Extension->QueueLock, irql);
    if (isHeld) {
        /* Whoever has held them for this reason has waited, too. */
        return;
    }
    PeerRecord(Extension, HOTADD_EVENT_KIND_GATE_CLOSED, &event);
    PeerDrain(Extension);
    event.Count = 0;
    event.Duration = KeQueryInterruptTime() - since;
    PeerRecord(Extension, HOTADD_EVENT_KIND_GATE_DRAINED, &event);
}

/* Takes reasons back; with the last of them requests go on, in their order. IRQL: <= DISPATCH_LEVEL. */
VOID PeerRelease(PDEVICE_EXTENSION Extension, ULONG Reasons)
{
    HOTADD_EVENT event = {0};
    BOOLEAN released;
    KIRQL irql;

    KeAcquireSpinLock(&Extension->QueueLock, &irql);
    if (Extension->RefuseStatus == STATUS_DEVICE_NOT_READY) {
        Extension->RefuseStatus = STATUS_SUCCESS;
    }
    released = Extension->HoldReasons != 0 && (Extension->HoldReasons & ~Reasons) == 0;
    Extension->HoldReasons &= ~Reasons;
    if (released) {
        Extension->LastHoldDuration = KeQueryInterruptTime() - Extension->HoldSince;
        Extension->LastHoldWaited = Extension->Waited - Extension->WaitedBefore;
        event.Duration = Extension->LastHoldDuration;
        event.Count = Extension->LastHoldWaited;
    }
    KeReleaseSpinLock(&Extension->QueueLock, irql);
    if (released) {
        PeerEngineKick(Extension);
        PeerRecord(Extension, HOTADD_EVENT_KIND_GATE_OPENED, &event);
    }
}

/* Fails what waits, and what comes from now on. STATUS_DELETE_PENDING is for good. IRQL: <= DISPATCH_LEVEL. */
VOID PeerRefuse(PDEVICE_EXTENSION Extension, NTSTATUS Status)
{
    KIRQL irql;

    KeAcquireSpinLock(&Extension->QueueLock, &irql);
    if (Extension->RefuseStatus != STATUS_DELETE_PENDING) {
        Extension->RefuseStatus = Status;
    }
    KeReleaseSpinLock(&Extension->QueueLock, irql);
    PeerFailQueued(Extension, NULL, Status);
}

/* Ends the queued requests of a file object, or all. IRQL: <= DISPATCH_LEVEL. */
VOID PeerFailQueued(PDEVICE_EXTENSION Extension, PFILE_OBJECT FileObject, NTSTATUS Status)
{
    PIRP irp;

    while ((irp = IoCsqRemoveNextIrp(&Extension->Csq, FileObject)) != NULL) {
        PeerFinish(Extension, irp, Status, 0, KeGetCurrentProcessorNumberEx(NULL));
    }
}
