/*
 * A function driver that completes every request in its dispatch routine: the least that a WDM driver in C takes for
 * one. Each dispatch routine holds the remove lock, and what a request asks is checked as the interface promises.
 */
#include <ntifs.h>
#include <initguid.h>

#include "hotadd.h"

#define FLOOR_TAG 'oolF'

typedef struct _DEVICE_EXTENSION {
    IO_REMOVE_LOCK RemoveLock;
    PDEVICE_OBJECT LowerDevice;
    UNICODE_STRING InterfaceName;
} DEVICE_EXTENSION, *PDEVICE_EXTENSION;

DRIVER_INITIALIZE DriverEntry;
static DRIVER_ADD_DEVICE FloorAddDevice;
static DRIVER_UNLOAD FloorUnload;
static DRIVER_DISPATCH FloorOpenClose;
static DRIVER_DISPATCH FloorDeviceControl;
static DRIVER_DISPATCH FloorPnp;
static DRIVER_DISPATCH FloorPassDown;
static IO_COMPLETION_ROUTINE FloorForwarded;

/* IRQL: <= DISPATCH_LEVEL. */
static NTSTATUS FloorComplete(PIRP Irp, NTSTATUS Status, ULONG_PTR Information)
{
    Irp->IoStatus.Status = Status;
    Irp->IoStatus.Information = Information;
    IoCompleteRequest(Irp, IO_NO_INCREMENT);
    return Status;
}

/* IRP_MJ_CREATE, IRP_MJ_CLEANUP and IRP_MJ_CLOSE: nothing is pending that a cleanup would have to cancel. */
static NTSTATUS NTAPI FloorOpenClose(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        return FloorComplete(Irp, status, 0);
    }
    status = FloorComplete(Irp, STATUS_SUCCESS, 0);
    IoReleaseRemoveLock(&extension->RemoveLock, Irp);
    return status;
}

/* Number! modulo 2^32; 34! and all above have the factor 2^32. */
static ULONG FloorFactorialOf(ULONG Number)
{
    ULONG product = 1;

    if (Number >= 34) {
        return 0;
    }
    for (ULONG factor = 2; factor <= Number; factor++) {
        product *= factor;
    }
    return product;
}

/* IRQL: <= DISPATCH_LEVEL. */
static NTSTATUS FloorFactorial(PIRP Irp, PIO_STACK_LOCATION Stack)
{
    HOTADD_FACTORIAL_INPUT input;
    PHOTADD_FACTORIAL_OUTPUT output = Irp->AssociatedIrp.SystemBuffer;

    if (Stack->Parameters.DeviceIoControl.InputBufferLength != sizeof(input)) {
        return FloorComplete(Irp, STATUS_INFO_LENGTH_MISMATCH, 0);
    }
    /* Input and output share the buffer. */
    input = *(PHOTADD_FACTORIAL_INPUT)Irp->AssociatedIrp.SystemBuffer;
    if (input.Reserved != 0) {
        return FloorComplete(Irp, STATUS_INVALID_PARAMETER, 0);
    }
    if (Stack->Parameters.DeviceIoControl.OutputBufferLength < sizeof(*output)) {
        return FloorComplete(Irp, STATUS_BUFFER_TOO_SMALL, 0);
    }
    output->Factorial = FloorFactorialOf(input.Number);
    output->Processor = KeGetCurrentProcessorNumberEx(NULL);
    return FloorComplete(Irp, STATUS_SUCCESS, sizeof(*output));
}

static NTSTATUS NTAPI FloorDeviceControl(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    PIO_STACK_LOCATION stack = IoGetCurrentIrpStackLocation(Irp);
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        return FloorComplete(Irp, status, 0);
    }
    if (stack->Parameters.DeviceIoControl.IoControlCode == IOCTL_HOTADD_FACTORIAL) {
        status = FloorFactorial(Irp, stack);
    } else {
        status = FloorComplete(Irp, STATUS_INVALID_DEVICE_REQUEST, 0);
    }
    IoReleaseRemoveLock(&extension->RemoveLock, Irp);
    return status;
}

/* IRP_MJ_POWER and IRP_MJ_SYSTEM_CONTROL are for the drivers below. */
static NTSTATUS NTAPI FloorPassDown(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        return FloorComplete(Irp, status, 0);
    }
    IoSkipCurrentIrpStackLocation(Irp);
    status = IoCallDriver(extension->LowerDevice, Irp);
    IoReleaseRemoveLock(&extension->RemoveLock, Irp);
    return status;
}

static NTSTATUS NTAPI FloorForwarded(PDEVICE_OBJECT DeviceObject, PIRP Irp, PVOID Event)
{
    UNREFERENCED_PARAMETER(DeviceObject);
    if (Irp->PendingReturned) {
        KeSetEvent(Event, IO_NO_INCREMENT, FALSE);
    }
    return STATUS_MORE_PROCESSING_REQUIRED;
}

/* Sends the IRP to the drivers below and waits for them; it is the caller's to complete. IRQL: PASSIVE_LEVEL. */
static NTSTATUS FloorForwardAndWait(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    KEVENT event;
    NTSTATUS status;

    KeInitializeEvent(&event, NotificationEvent, FALSE);
    IoCopyCurrentIrpStackLocationToNext(Irp);
    IoSetCompletionRoutine(Irp, FloorForwarded, &event, TRUE, TRUE, TRUE);
    status = IoCallDriver(Extension->LowerDevice, Irp);
    if (status == STATUS_PENDING) {
        KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
        status = Irp->IoStatus.Status;
    }
    return status;
}

/* IRP_MN_START_DEVICE, the first or after a stop, which has left the interface enabled. */
static NTSTATUS FloorStart(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    NTSTATUS status = FloorForwardAndWait(Extension, Irp);

    if (NT_SUCCESS(status)) {
        status = IoSetDeviceInterfaceState(&Extension->InterfaceName, TRUE);
    }
    return FloorComplete(Irp, NT_SUCCESS(status) ? STATUS_SUCCESS : status, 0);
}

/* IRP_MN_REMOVE_DEVICE. The remove lock is held by the caller. */
static NTSTATUS FloorRemove(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    NTSTATUS status;

    /* Fails where it was never enabled, which leaves it as it should be. */
    (VOID)IoSetDeviceInterfaceState(&extension->InterfaceName, FALSE);
    Irp->IoStatus.Status = STATUS_SUCCESS;
    IoSkipCurrentIrpStackLocation(Irp);
    status = IoCallDriver(extension->LowerDevice, Irp);
    IoReleaseRemoveLockAndWait(&extension->RemoveLock, Irp);
    RtlFreeUnicodeString(&extension->InterfaceName);
    IoDetachDevice(extension->LowerDevice);
    IoDeleteDevice(DeviceObject);
    return status;
}

static NTSTATUS NTAPI FloorPnp(PDEVICE_OBJECT DeviceObject, PIRP Irp)
{
    PDEVICE_EXTENSION extension = DeviceObject->DeviceExtension;
    NTSTATUS status = IoAcquireRemoveLock(&extension->RemoveLock, Irp);

    if (!NT_SUCCESS(status)) {
        return FloorComplete(Irp, status, 0);
    }
    switch (IoGetCurrentIrpStackLocation(Irp)->MinorFunction) {
    case IRP_MN_START_DEVICE:
        status = FloorStart(extension, Irp);
        IoReleaseRemoveLock(&extension->RemoveLock, Irp);
        return status;
    case IRP_MN_REMOVE_DEVICE:
        return FloorRemove(DeviceObject, Irp);
    case IRP_MN_SURPRISE_REMOVAL:
        (VOID)IoSetDeviceInterfaceState(&extension->InterfaceName, FALSE);
        Irp->IoStatus.Status = STATUS_SUCCESS;
        break;
    case IRP_MN_QUERY_STOP_DEVICE:
    case IRP_MN_CANCEL_STOP_DEVICE:
    case IRP_MN_STOP_DEVICE:
    case IRP_MN_QUERY_REMOVE_DEVICE:
    case IRP_MN_CANCEL_REMOVE_DEVICE:
        Irp->IoStatus.Status = STATUS_SUCCESS;
        break;
    default:
        break;
    }
    IoSkipCurrentIrpStackLocation(Irp);
    status = IoCallDriver(extension->LowerDevice, Irp);
    IoReleaseRemoveLock(&extension->RemoveLock, Irp);
    return status;
}

static NTSTATUS NTAPI FloorAddDevice(PDRIVER_OBJECT DriverObject, PDEVICE_OBJECT PhysicalDeviceObject)
{
    PDEVICE_OBJECT device;
    PDEVICE_EXTENSION extension;
    NTSTATUS status = IoCreateDevice(DriverObject, sizeof(DEVICE_EXTENSION), NULL, FILE_DEVICE_UNKNOWN,
                                     FILE_DEVICE_SECURE_OPEN, FALSE, &device);

    if (!NT_SUCCESS(status)) {
        return status;
    }
    extension = device->DeviceExtension;
    IoInitializeRemoveLock(&extension->RemoveLock, FLOOR_TAG, 0, 0);
    status = IoRegisterDeviceInterface(PhysicalDeviceObject, &GUID_DEVINTERFACE_HOTADD, NULL, &extension->InterfaceName);
    if (!NT_SUCCESS(status)) {
        IoDeleteDevice(device);
        return status;
    }
    extension->LowerDevice = IoAttachDeviceToDeviceStack(device, PhysicalDeviceObject);
    if (extension->LowerDevice == NULL) {
        RtlFreeUnicodeString(&extension->InterfaceName);
        IoDeleteDevice(device);
        return STATUS_NO_SUCH_DEVICE;
    }
    device->Flags |= DO_DIRECT_IO | DO_POWER_PAGABLE;
    device->Flags &= ~DO_DEVICE_INITIALIZING;
    return STATUS_SUCCESS;
}

static VOID NTAPI FloorUnload(PDRIVER_OBJECT DriverObject)
{
    UNREFERENCED_PARAMETER(DriverObject);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT DriverObject, PUNICODE_STRING RegistryPath)
{
    UNREFERENCED_PARAMETER(RegistryPath);
    DriverObject->MajorFunction[IRP_MJ_CREATE] = FloorOpenClose;
    DriverObject->MajorFunction[IRP_MJ_CLEANUP] = FloorOpenClose;
    DriverObject->MajorFunction[IRP_MJ_CLOSE] = FloorOpenClose;
    DriverObject->MajorFunction[IRP_MJ_DEVICE_CONTROL] = FloorDeviceControl;
    DriverObject->MajorFunction[IRP_MJ_PNP] = FloorPnp;
    DriverObject->MajorFunction[IRP_MJ_POWER] = FloorPassDown;
    DriverObject->MajorFunction[IRP_MJ_SYSTEM_CONTROL] = FloorPassDown;
    DriverObject->DriverExtension->AddDevice = FloorAddDevice;
    DriverObject->DriverUnload = FloorUnload;
    return STATUS_SUCCESS;
}
