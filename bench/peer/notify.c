/*
 * The asynchronous notifications of added processors and memory.
 */
#include "peer.h"

#include <initguid.h>
#include <wdmguid.h>

/* As in poclass.h, which needs user-mode headers here. */
DEFINE_GUID(GUID_DEVICE_PROCESSOR, 0x97FADB10, 0x4E33, 0x40AE, 0x35, 0x9C, 0x8B, 0xEF, 0x02, 0x9D, 0xBD, 0xD0);
DEFINE_GUID(GUID_DEVICE_MEMORY, 0x3FD0F03D, 0x92E0, 0x45FB, 0xB7, 0x5C, 0x5E, 0xD8, 0xFF, 0xB0, 0x10, 0x21);

static DRIVER_NOTIFICATION_CALLBACK_ROUTINE PeerArrival;
static IO_WORKITEM_ROUTINE PeerRefresh;

/* How many bytes of physical memory the system uses. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerQueryMemory(PULONG64 Bytes)
{
    PPHYSICAL_MEMORY_RANGE ranges = MmGetPhysicalMemoryRanges();
    ULONG64 total = 0;

    if (ranges == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    for (PPHYSICAL_MEMORY_RANGE range = ranges; range->BaseAddress.QuadPart != 0 || range->NumberOfBytes.QuadPart != 0;
         range++) {
        total += (ULONG64)range->NumberOfBytes.QuadPart;
    }
    ExFreePool(ranges);
    *Bytes = total;
    return STATUS_SUCCESS;
}

/* Looks at memory as it is now, however often and in whichever order it was announced. IRQL: PASSIVE_LEVEL. */
static VOID NTAPI PeerRefresh(PDEVICE_OBJECT DeviceObject, PVOID Context)
{
    PDEVICE_EXTENSION extension = Context;
    HOTADD_EVENT event = {0};

    UNREFERENCED_PARAMETER(DeviceObject);
    /* First: what arrives from now on queues it again. */
    InterlockedExchange(&extension->RefreshQueued, FALSE);
    if (NT_SUCCESS(PeerQueryMemory(&event.Count))) {
        event.Before = (ULONG64)InterlockedExchange64(&PeerGlobals.MemoryBytes, (LONG64)event.Count);
        if (event.Count > event.Before) {
            PeerRecord(NULL, HOTADD_EVENT_KIND_MEMORY_GREW, &event);
        }
    }
    IoReleaseRemoveLock(&extension->RemoveLock, extension->RefreshWork);
}

/* IRQL: PASSIVE_LEVEL. It must be quick, so a work item does the rest. */
static NTSTATUS NTAPI PeerArrival(PVOID NotificationStructure, PVOID Context)
{
    PDEVICE_INTERFACE_CHANGE_NOTIFICATION change = NotificationStructure;
    PDEVICE_EXTENSION extension = Context;

    if (!IsEqualGUID(&change->Event, &GUID_DEVICE_INTERFACE_ARRIVAL)) {
        return STATUS_SUCCESS;
    }
    if (!NT_SUCCESS(IoAcquireRemoveLock(&extension->RemoveLock, extension->RefreshWork))) {
        return STATUS_SUCCESS;
    }
    PeerRecordStatus(extension,
                     IsEqualGUID(&change->InterfaceClassGuid, &GUID_DEVICE_MEMORY)
                         ? HOTADD_EVENT_KIND_MEMORY_ARRIVAL
                         : HOTADD_EVENT_KIND_PROCESSOR_ARRIVAL,
                     STATUS_SUCCESS);
    if (InterlockedExchange(&extension->RefreshQueued, TRUE)) {
        IoReleaseRemoveLock(&extension->RemoveLock, extension->RefreshWork);
    } else {
        IoQueueWorkItem(extension->RefreshWork, PeerRefresh, DelayedWorkQueue, extension);
    }
    return STATUS_SUCCESS;
}

static NTSTATUS PeerRegisterArrival(PDEVICE_EXTENSION Extension, const GUID *Class, PVOID *Registration)
{
    return IoRegisterPlugPlayNotification(EventCategoryDeviceInterfaceChange, 0, (PVOID)Class,
                                          PeerGlobals.DriverObject, PeerArrival, Extension, Registration);
}

/* A registration keeps the driver from being unloaded, so each device has its own, which go with it.
   IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerRegisterNotifications(PDEVICE_EXTENSION Extension)
{
    NTSTATUS status;

    Extension->RefreshWork = IoAllocateWorkItem(Extension->Self);
    if (Extension->RefreshWork == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    status = PeerRegisterArrival(Extension, &GUID_DEVICE_PROCESSOR, &Extension->ProcessorArrival);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    return PeerRegisterArrival(Extension, &GUID_DEVICE_MEMORY, &Extension->MemoryArrival);
}

/* No callback runs afterwards; a refresh may. IRQL: PASSIVE_LEVEL. */
static VOID PeerUnregisterArrival(PVOID *Registration)
{
    if (*Registration != NULL) {
        IoUnregisterPlugPlayNotificationEx(*Registration);
        *Registration = NULL;
    }
}

/* The caller has waited for the remove lock, or nobody has had it. IRQL: PASSIVE_LEVEL. */
VOID PeerUnregisterNotifications(PDEVICE_EXTENSION Extension)
{
    PeerUnregisterArrival(&Extension->ProcessorArrival);
    PeerUnregisterArrival(&Extension->MemoryArrival);
    if (Extension->RefreshWork != NULL) {
        IoFreeWorkItem(Extension->RefreshWork);
        Extension->RefreshWork = NULL;
    }
}
