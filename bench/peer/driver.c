/*
 * The driver as a whole: DriverEntry, AddDevice, Unload, and what all dispatch routines use.
 */
#include <initguid.h>
#include "peer.h"

PEER_GLOBALS PeerGlobals;

DRIVER_INITIALIZE DriverEntry;
static DRIVER_ADD_DEVICE PeerAddDevice;
static DRIVER_UNLOAD PeerUnload;
static DRIVER_DISPATCH PeerDispatchSystemControl;
static IO_COMPLETION_ROUTINE PeerForwarded;

/* Completes an IRP that was not accepted as a request. IRQL: <= DISPATCH_LEVEL. */
NTSTATUS PeerEnd(PDEVICE_EXTENSION Extension, PIRP Irp, NTSTATUS Status, ULONG_PTR Information)
{
    Irp->IoStatus.Status = Status;
    Irp->IoStatus.Information = Information;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    IoReleaseRemoveLock(&Extension->RemoveLock, Irp);
    return Status;
}

/* IRQL: <= DISPATCH_LEVEL. */
NTSTATUS PeerPassDown(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    NTSTATUS status;

    IoSkipCurrentIrpStackLocation(Irp);
    status = IoCallDriver(Extension->LowerDevice, Irp);
    IoReleaseRemoveLock(&Extension->RemoveLock, Irp);
    return status;
}

static NTSTATUS NTAPI PeerForwarded(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Event)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    if (Irp->PendingReturned) {
        KeSetEvent(Event, IO_NO_INCREMENT, FALSE);
    }
    return STATUS_MORE_PROCESSING_REQUIRED;
}

/* Sends the IRP to the drivers below and waits for them; it is the caller's to complete. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerForwardAndWait(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    KEVENT event;
    NTSTATUS status;

    KeInitializeEvent(&event, NotificationEvent, FALSE);
    IoCopyCurrentIrpStackLocationToNext(Irp);
    IoSetCompletionRoutine(Irp, PeerForwarded, &event, TRUE, TRUE, TRUE);
    status = IoCallDriver(Extension->LowerDevice, Irp);
    if (status == STATUS_PENDING) {
        KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
        status = Irp->IoStatus.Status;
    }
    return status;
}

static NTSTATUS NTAPI PeerDispatchSystemControl(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        Irp->IoStatus.Status = status;
        IoCompleteRequest(Irp, IO_NO_INCREMENT);
        return status;
    }
    return PeerPassDown(extension, Irp);
}

/* Undoes what PeerAddDevice has done so far. IRQL: PASSIVE_LEVEL. */
VOID PeerDeleteDevice(PDEVICE_EXTENSION Extension)
{
    PeerUnregisterNotifications(Extension);
    if (Extension->PowerWork != NULL) {
        IoFreeWorkItem(Extension->PowerWork);
    }
    RtlFreeUnicodeString(&Extension->InterfaceName);
    if (Extension->LowerDevice != NULL) {
        IoDetachDevice(Extension->LowerDevice);
    }
    IoDeleteDevice(Extension->Self);
}

static NTSTATUS PeerInitializeDevice(PDEVICE_EXTENSION Extension)
{
    NTSTATUS status;

    IoInitializeRemoveLock(&Extension->RemoveLock, PEER_TAG, 0, 0);
    KeInitializeSpinLock(&Extension->CounterLock);
    KeInitializeEvent(&Extension->Drained, NotificationEvent, FALSE);
    Extension->PnpState = HOTADD_PNP_STATE_NOT_STARTED;
    Extension->PowerState = PEER_POWER_OFF;
    PeerInitializeEngine(Extension);
    status = PeerInitializeQueue(Extension);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = IoRegisterDeviceInterface(Extension->PhysicalDevice, &GUID_DEVINTERFACE_HOTADD, NULL,
                                       &Extension->InterfaceName);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    Extension->PowerWork = IoAllocateWorkItem(Extension->Self);
    if (Extension->PowerWork == NULL) {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    Extension->LowerDevice = IoAttachDeviceToDeviceStack(Extension->Self, Extension->PhysicalDevice);
    if (Extension->LowerDevice == NULL) {
        return STATUS_NO_SUCH_DEVICE;
    }
    return PeerRegisterNotifications(Extension);
}

/* AddDevice has failed. A notification that came already may have queued a refresh, which is waited for. */
static VOID PeerAbandonDevice(PDEVICE_EXTENSION Extension)
{
    if (NT_SUCCESS(IoAcquireRemoveLock(&Extension->RemoveLock, Extension))) {
        IoReleaseRemoveLockAndWait(&Extension->RemoveLock, Extension);
    }
    PeerDeleteDevice(Extension);
}

static NTSTATUS NTAPI PeerAddDevice(PDRIVER_OBJECT DriverObject, PDEVICE_OBJECT PhysicalDeviceObject)
{
    PDEVICE_OBJECT device;
    PDEVICE_EXTENSION extension;
    NTSTATUS status = IoCreateDevice(DriverObject, sizeof(DEVICE_EXTENSION), NULL, FILE_DEVICE_UNKNOWN,
                                     FILE_DEVICE_SECURE_OPEN, FALSE, &device);

    if (!NT_SUCCESS(status)) {
        return status;
    }
    extension = device->DeviceExtension;
    extension->Self = device;
    extension->PhysicalDevice = PhysicalDeviceObject;
    extension->Number = (ULONG)InterlockedIncrement(&PeerGlobals.Devices);
    status = PeerInitializeDevice(extension);
    if (!NT_SUCCESS(status)) {
        PeerAbandonDevice(extension);
        return status;
    }
    PeerRecordStatus(extension, HOTADD_EVENT_KIND_DEVICE_ADDED, STATUS_SUCCESS);
    device->Flags |= DO_DIRECT_IO | DO_POWER_PAGABLE;
    device->Flags &= ~DO_DEVICE_INITIALIZING;
    return STATUS_SUCCESS;
}

/* A value of the Parameters key, or Default where it is absent, of another type or out of its range. */
static ULONG PeerReadParameter(HANDLE Key, PCWSTR Name, ULONG Least, ULONG Most, ULONG Default)
{
    struct {
        KEY_VALUE_PARTIAL_INFORMATION Information;
        UCHAR More[sizeof(ULONG)];
    } value;
    UNICODE_STRING name;
    ULONG length;
    ULONG number;
    NTSTATUS status;

    RtlInitUnicodeString(&name, Name);
    status = ZwQueryValueKey(Key, &name, KeyValuePartialInformation, &value, sizeof(value), &length);
    if (!NT_SUCCESS(status) || value.Information.Type != REG_DWORD || value.Information.DataLength != sizeof(ULONG)) {
        return Default;
    }
    number = *(PULONG)value.Information.Data;
    return number < Least || number > Most ? Default : number;
}

/* See docs/parameters.md. */
static VOID PeerReadParameters(PDRIVER_OBJECT DriverObject)
{
    HANDLE key;
    NTSTATUS status = IoOpenDriverRegistryKey(DriverObject, DriverRegKeyParameters, KEY_READ, 0, &key);

    PeerGlobals.RequestTimeout = 10000;
    PeerGlobals.JournalEvents = 4096;
    PeerGlobals.JournalWaiters = 64;
    if (!NT_SUCCESS(status)) {
        return;
    }
    PeerGlobals.RequestTimeout = PeerReadParameter(key, L"RequestTimeout", 1000, 600000, PeerGlobals.RequestTimeout);
    PeerGlobals.JournalEvents = PeerReadParameter(key, L"JournalEvents", 64, 65536, PeerGlobals.JournalEvents);
    PeerGlobals.JournalWaiters = PeerReadParameter(key, L"JournalWaiters", 1, 1024, PeerGlobals.JournalWaiters);
    ZwClose(key);
}

static VOID NTAPI PeerUnload(PDRIVER_OBJECT DriverObject)
{
    UNREFERENCED_PARAMETER(DriverObject);
    PeerUnregisterProcessors();
    PeerDeleteJournal();
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    HOTADD_EVENT event = {0};
    NTSTATUS status = PeerQueryMemory(&PeerGlobals.MemoryBytesAtLoad);

    UNREFERENCED_PARAMETER(RegistryPath);
    if (!NT_SUCCESS(status)) {
        return status;
    }
    PeerGlobals.MemoryBytes = (LONG64)PeerGlobals.MemoryBytesAtLoad;
    PeerGlobals.DriverObject = DriverObject;
    PeerReadParameters(DriverObject);
    status = PeerInitializeJournal();
    if (!NT_SUCCESS(status)) {
        return status;
    }
    status = PeerRegisterProcessors();
    if (!NT_SUCCESS(status)) {
        PeerDeleteJournal();
        return status;
    }
    DriverObject->MajorFunction[IRP_MJ_CREATE] = PeerDispatchCreate;
    DriverObject->MajorFunction[IRP_MJ_CLEANUP] = PeerDispatchCleanup;
    DriverObject->MajorFunction[IRP_MJ_CLOSE] = PeerDispatchClose;
    DriverObject->MajorFunction[IRP_MJ_READ] = PeerDispatchReadWrite;
    DriverObject->MajorFunction[IRP_MJ_WRITE] = PeerDispatchReadWrite;
    DriverObject->MajorFunction[IRP_MJ_DEVICE_CONTROL] = PeerDispatchDeviceControl;
    DriverObject->MajorFunction[IRP_MJ_PNP] = PeerDispatchPnp;
    DriverObject->MajorFunction[IRP_MJ_POWER] = PeerDispatchPower;
    DriverObject->MajorFunction[IRP_MJ_SYSTEM_CONTROL] = PeerDispatchSystemControl;
    DriverObject->DriverExtension->AddDevice = PeerAddDevice;
    DriverObject->DriverUnload = PeerUnload;
    event.Count = (ULONG64)PeerGlobals.ProcessorsKnown;
    PeerRecord(NULL, HOTADD_EVENT_KIND_DRIVER_LOADED, &event);
    return STATUS_SUCCESS;
}
