/*
 * The journal: a ring of numbered, time-stamped events, read from a cursor or waited for. Each event goes to ETW too.
 */
#include "peer.h"

#include <evntprov.h>

/* TRACE_LEVEL_INFORMATION */
#define PEER_TRACE_LEVEL 4

/* Which waiters are wanted: those of a file object, or those that there is an event for. */
typedef struct _PEER_WANTED {
    PFILE_OBJECT FileObject;
    ULONG64 Next;
} PEER_WANTED, *PPEER_WANTED;

static struct {
    KSPIN_LOCK Lock;
    PHOTADD_EVENT Events;
    ULONG64 Next;
    IO_CSQ Csq;
    KSPIN_LOCK WaitersLock;
    LIST_ENTRY Waiters;
    ULONG WaiterCount;
    REGHANDLE Provider;
} Journal;

/* Where a waiter keeps the number of the first event that it is for; IoCsq uses the last of these members. */
static PULONG64 PeerCursorOf(PIRP Irp)
{
    return (PULONG64)&Irp->Tail.Overlay.DriverContext[0];
}

/* IRQL: DISPATCH_LEVEL, under the waiters' lock, as the next two. */
static NTSTATUS NTAPI PeerInsertWaiter(PIO_CSQ Csq, PIRP Irp, PVOID InsertContext)
{
    UNREFERENCED_PARAMETER(Csq);
    UNREFERENCED_PARAMETER(InsertContext);
    if (Journal.WaiterCount >= PeerGlobals.JournalWaiters) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    InsertTailList(&Journal.Waiters, &Irp->Tail.Overlay.ListEntry);
    Journal.WaiterCount++;
    return STATUS_SUCCESS;
}

static VOID NTAPI PeerRemoveWaiter(PIO_CSQ Csq, PIRP Irp)
{
    UNREFERENCED_PARAMETER(Csq);
    RemoveEntryList(&Irp->Tail.Overlay.ListEntry);
    Journal.WaiterCount--;
}

static PIRP NTAPI PeerPeekWaiter(PIO_CSQ Csq, PIRP Irp, PVOID PeekContext)
{
    PLIST_ENTRY next = Irp == NULL ? Journal.Waiters.Flink : Irp->Tail.Overlay.ListEntry.Flink;
    PPEER_WANTED wanted = PeekContext;
    PIRP irp;

    UNREFERENCED_PARAMETER(Csq);
    for (; next != &Journal.Waiters; next = next->Flink) {
        irp = CONTAINING_RECORD(next, IRP, Tail.Overlay.ListEntry);
        if (wanted->FileObject != NULL ? IoGetCurrentIrpStackLocation(irp)->FileObject == wanted->FileObject
                                       : *PeerCursorOf(irp) < wanted->Next) {
            return irp;
        }
    }
    return NULL;
}

static VOID NTAPI PeerLockWaiters(PIO_CSQ Csq, PKIRQL Irql)
{
    UNREFERENCED_PARAMETER(Csq);
    KeAcquireSpinLock(&Journal.WaitersLock, Irql);
}

static VOID NTAPI PeerUnlockWaiters(PIO_CSQ Csq, KIRQL Irql)
{
    UNREFERENCED_PARAMETER(Csq);
    KeReleaseSpinLock(&Journal.WaitersLock, Irql);
}

static VOID PeerEndWaiter(PIRP Irp, NTSTATUS Status, ULONG_PTR Information)
{
    (VOID)PeerEnd(IoGetCurrentIrpStackLocation(Irp)->DeviceObject->DeviceExtension, Irp, Status, Information);
}

static VOID NTAPI PeerCompleteCanceledWaiter(PIO_CSQ Csq, PIRP Irp)
{
    UNREFERENCED_PARAMETER(Csq);
    PeerEndWaiter(Irp, STATUS_CANCELLED, 0);
}

/* IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerInitializeJournal(VOID)
{
    NTSTATUS status;

    KeInitializeSpinLock(&Journal.Lock);
    KeInitializeSpinLock(&Journal.WaitersLock);
    InitializeListHead(&Journal.Waiters);
    status = IoCsqInitializeEx(&Journal.Csq, PeerInsertWaiter, PeerRemoveWaiter, PeerPeekWaiter, PeerLockWaiters,
                               PeerUnlockWaiters, PeerCompleteCanceledWaiter);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    Journal.Events =
        ExAllocatePool2(POOL_FLAG_NON_PAGED, PeerGlobals.JournalEvents * sizeof(HOTADD_EVENT), PEER_TAG);
    if (Journal.Events == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    /* Without a registration nothing is traced; that is no reason not to start. */
    if (!NT_SUCCESS(EtwRegister(&GUID_HOTADD_TRACE_PROVIDER, NULL, NULL, &Journal.Provider))) {
        Journal.Provider = 0;
    }
    return STATUS_SUCCESS;
}

/* IRQL: PASSIVE_LEVEL. */
VOID PeerDeleteJournal(VOID)
{
    if (Journal.Provider != 0) {
        EtwUnregister(Journal.Provider);
    }
    ExFreePoolWithTag(Journal.Events, PEER_TAG);
}

static VOID PeerTrace(PHOTADD_EVENT Event)
{
    EVENT_DESCRIPTOR descriptor = {.Id = (USHORT)Event->Kind, .Level = PEER_TRACE_LEVEL};
    EVENT_DATA_DESCRIPTOR data;

    if (Journal.Provider == 0 || !EtwEventEnabled(Journal.Provider, &descriptor)) {
        return;
    }
    EventDataDescCreate(&data, Event, sizeof(*Event));
    EtwWrite(Journal.Provider, &descriptor, NULL, 1, &data);
}

/* The number of the next event. IRQL: <= DISPATCH_LEVEL. */
ULONG64 PeerJournalNext(VOID)
{
    ULONG64 next;
    KIRQL irql;

    KeAcquireSpinLock(&Journal.Lock, &irql);
    next = Journal.Next;
    KeReleaseSpinLock(&Journal.Lock, irql);
    return next;
}

/* Copies the events from the cursor on. IRQL: <= DISPATCH_LEVEL. */
static NTSTATUS PeerReadJournal(PIRP Irp, ULONG64 Cursor, PULONG_PTR Information)
{
    ULONG room = IoGetCurrentIrpStackLocation(Irp)->Parameters.DeviceIoControl.OutputBufferLength;
    PHOTADD_JOURNAL_OUTPUT front = Irp->AssociatedIrp.SystemBuffer;
    PHOTADD_EVENT events = (PHOTADD_EVENT)(front + 1);
    NTSTATUS status = STATUS_SUCCESS;
    ULONG64 first;
    KIRQL irql;

    room = room < sizeof(*front) ? 0 : (room - sizeof(*front)) / sizeof(*events);
    KeAcquireSpinLock(&Journal.Lock, &irql);
    if (Cursor > Journal.Next) {
        status = STATUS_INVALID_PARAMETER;
    } else if (room == 0) {
        status = STATUS_BUFFER_TOO_SMALL;
    } else {
        first = Journal.Next - min(Journal.Next, PeerGlobals.JournalEvents);
        first = max(first, Cursor);
        front->Missed = first - Cursor;
        front->Count = (ULONG)min(Journal.Next - first, room);
        front->Next = first + front->Count;
        front->Reserved = 0;
        for (ULONG index = 0; index < front->Count; index++) {
            events[index] = Journal.Events[(first + index) % PeerGlobals.JournalEvents];
        }
        *Information = sizeof(*front) + front->Count * sizeof(*events);
    }
    KeReleaseSpinLock(&Journal.Lock, irql);
    return status;
}

/* Answers those who wait for an event that is there. IRQL: <= DISPATCH_LEVEL, not under a lock. */
static VOID PeerWakeWaiters(VOID)
{
    PEER_WANTED wanted = {.Next = PeerJournalNext()};
    ULONG_PTR information;
    NTSTATUS status;
    PIRP irp;

    while ((irp = IoCsqRemoveNextIrp(&Journal.Csq, &wanted)) != NULL) {
        information = 0;
        status = PeerReadJournal(irp, *PeerCursorOf(irp), &information);
        PeerEndWaiter(irp, status, information);
    }
}

/* Records an event. What it says of its number, time, kind and device is overwritten. IRQL: <= DISPATCH_LEVEL, not
   under a lock, because requests are completed. */
VOID PeerRecord(PDEVICE_EXTENSION Extension, ULONG Kind, PHOTADD_EVENT Event)
{
    KIRQL irql;

    Event->Kind = Kind;
    Event->Device = Extension == NULL ? 0 : Extension->Number;
    KeAcquireSpinLock(&Journal.Lock, &irql);
    Event->Sequence = Journal.Next;
    Event->Time = KeQueryInterruptTime();
    Journal.Events[Journal.Next % PeerGlobals.JournalEvents] = *Event;
    Journal.Next++;
    KeReleaseSpinLock(&Journal.Lock, irql);
    PeerTrace(Event);
    PeerWakeWaiters();
}

/* An event of a device about which there is a status to tell. */
VOID PeerRecordStatus(PDEVICE_EXTENSION Extension, ULONG Kind, NTSTATUS Status)
{
    HOTADD_EVENT event = {.Status = Status};

    PeerRecord(Extension, Kind, &event);
}

/* Ends the waits that came through a file object. IRQL: <= DISPATCH_LEVEL. */
VOID PeerCancelWaiters(PFILE_OBJECT FileObject)
{
    PEER_WANTED wanted = {.FileObject = FileObject};
    PIRP irp;

    while ((irp = IoCsqRemoveNextIrp(&Journal.Csq, &wanted)) != NULL) {
        PeerEndWaiter(irp, STATUS_CANCELLED, 0);
    }
}

static NTSTATUS PeerCheckJournalInput(PIRP Irp, PIO_STACK_LOCATION Stack, PULONG64 Cursor)
{
    PHOTADD_JOURNAL_INPUT input = Irp->AssociatedIrp.SystemBuffer;

    if (Stack->Parameters.DeviceIoControl.InputBufferLength != sizeof(*input)) {
        return STATUS_INFO_LENGTH_MISMATCH;
    }
    *Cursor = input->Cursor;
    return input->Reserved == 0 ? STATUS_SUCCESS : STATUS_INVALID_PARAMETER;
}

/* IOCTL_HOTADD_JOURNAL_READ. IRQL: <= DISPATCH_LEVEL. */
NTSTATUS PeerJournalRead(PIRP Irp, PIO_STACK_LOCATION Stack, PULONG_PTR Information)
{
    ULONG64 cursor;
    NTSTATUS status = PeerCheckJournalInput(Irp, Stack, &cursor);

    return NT_SUCCESS(status) ? PeerReadJournal(Irp, cursor, Information) : status;
}

/* IOCTL_HOTADD_JOURNAL_WAIT. IRQL: <= DISPATCH_LEVEL. */
NTSTATUS PeerJournalWait(PDEVICE_EXTENSION Extension, PIRP Irp, PIO_STACK_LOCATION Stack)
{
    ULONG_PTR information = 0;
    ULONG64 cursor;
    NTSTATUS status = PeerCheckJournalInput(Irp, Stack, &cursor);

    if (NT_SUCCESS(status) && Extension->RefuseStatus == STATUS_DELETE_PENDING) {
        status = STATUS_DELETE_PENDING;
    }
    if (NT_SUCCESS(status)) {
        status = PeerReadJournal(Irp, cursor, &information);
    }
    if (!NT_SUCCESS(status) || information != sizeof(HOTADD_JOURNAL_OUTPUT)) {
        return PeerEnd(Extension, Irp, status, information);
    }
    /* There was none. */
    *PeerCursorOf(Irp) = cursor;
    status = IoCsqInsertIrpEx(&Journal.Csq, Irp, NULL, NULL);
    if (!NT_SUCCESS(status)) {
        return PeerEnd(Extension, Irp, status, 0);
    }
    /* One may have come between looking and waiting, and whoever recorded it found nobody waiting. */
    if (PeerJournalNext() != cursor) {
        PeerWakeWaiters();
    }
    return STATUS_PENDING;
}
