/* A driver of a PnP device stack: a filter, or with the parameter Function the function driver. Its parameter Place is what it writes into
 * a trail; with the parameter FailAdd its AddDevice fails, and with StayAttached it forgets to leave the stack. */
#include "stack.h"

#define TAG 'kcaS'

typedef struct {
  PDEVICE_OBJECT lower;
  IO_REMOVE_LOCK lock;
  UNICODE_STRING link;
} EXTENSION;

static ULONG place, function, failAdd, stayAttached;

static NTSTATUS PassDown(EXTENSION *own, PIRP irp) {
  IoSkipCurrentIrpStackLocation(irp);
  return IoCallDriver(own->lower, irp);
}

/* Passes a request down and lets the lock go; the request is not touched any more. */
static NTSTATUS PassAndRelease(EXTENSION *own, PIRP irp) {
  NTSTATUS status = PassDown(own, irp);
  IoReleaseRemoveLock(&own->lock, irp);
  return status;
}

static NTSTATUS Refuse(PIRP irp, NTSTATUS status) {
  return Complete(irp, status, 0);
}

static NTSTATUS Start(EXTENSION *own, PIRP irp) {
  NTSTATUS status = PassAndWait(own->lower, irp);
  if (NT_SUCCESS(status) && function) status = IoSetDeviceInterfaceState(&own->link, TRUE);
  Complete(irp, status, irp->IoStatus.Information);
  IoReleaseRemoveLock(&own->lock, irp);
  return status;
}

static void Disable(EXTENSION *own) {
  if (!own->link.Buffer) return;
  IoSetDeviceInterfaceState(&own->link, FALSE);
  RtlFreeUnicodeString(&own->link);
}

static NTSTATUS Remove(PDEVICE_OBJECT device, PIRP irp) {
  EXTENSION *own = device->DeviceExtension;
  Disable(own);
  irp->IoStatus.Status = STATUS_SUCCESS;
  NTSTATUS status = PassDown(own, irp);
  IoReleaseRemoveLockAndWait(&own->lock, irp);
  if (stayAttached) return status;
  IoDetachDevice(own->lower);
  IoDeleteDevice(device);
  return status;
}

static NTSTATUS NTAPI DispatchPnp(PDEVICE_OBJECT device, PIRP irp) {
  EXTENSION *own = device->DeviceExtension;
  NTSTATUS status = IoAcquireRemoveLock(&own->lock, irp);
  if (!NT_SUCCESS(status)) return Refuse(irp, status);
  switch (IoGetCurrentIrpStackLocation(irp)->MinorFunction) {
    case IRP_MN_START_DEVICE: return Start(own, irp);
    case IRP_MN_REMOVE_DEVICE: return Remove(device, irp);
    case IRP_MN_SURPRISE_REMOVAL:
      Disable(own);
      irp->IoStatus.Status = STATUS_SUCCESS;
      break;
    case IRP_MN_QUERY_STOP_DEVICE:
    case IRP_MN_CANCEL_STOP_DEVICE:
    case IRP_MN_STOP_DEVICE:
    case IRP_MN_QUERY_REMOVE_DEVICE:
    case IRP_MN_CANCEL_REMOVE_DEVICE:
      irp->IoStatus.Status = STATUS_SUCCESS;
      break;
  }
  return PassAndRelease(own, irp);
}

static NTSTATUS Trail(EXTENSION *own, PIRP irp) {
  PIO_STACK_LOCATION location = IoGetCurrentIrpStackLocation(irp);
  PUCHAR trail = irp->AssociatedIrp.SystemBuffer;
  if (location->Parameters.DeviceIoControl.OutputBufferLength < 16 ||
      location->Parameters.DeviceIoControl.InputBufferLength < 16 || trail[0] >= 15) {
    IoReleaseRemoveLock(&own->lock, irp);
    return Refuse(irp, STATUS_INVALID_PARAMETER);
  }
  trail[++trail[0]] = (UCHAR)place;
  if (!function) return PassAndRelease(own, irp);
  PassAndWait(own->lower, irp);
  Complete(irp, STATUS_SUCCESS, (ULONG_PTR)trail[0] + 1);
  IoReleaseRemoveLock(&own->lock, irp);
  return STATUS_SUCCESS;
}

static NTSTATUS NTAPI Dispatch(PDEVICE_OBJECT device, PIRP irp) {
  EXTENSION *own = device->DeviceExtension;
  NTSTATUS status = IoAcquireRemoveLock(&own->lock, irp);
  if (!NT_SUCCESS(status)) return Refuse(irp, status);
  PIO_STACK_LOCATION location = IoGetCurrentIrpStackLocation(irp);
  if (location->MajorFunction == IRP_MJ_DEVICE_CONTROL &&
      location->Parameters.DeviceIoControl.IoControlCode == IOCTL_TRAIL)
    return Trail(own, irp);
  if (!function || location->MajorFunction == IRP_MJ_POWER || location->MajorFunction == IRP_MJ_SYSTEM_CONTROL)
    return PassAndRelease(own, irp);
  BOOLEAN handle = location->MajorFunction == IRP_MJ_CREATE || location->MajorFunction == IRP_MJ_CLEANUP ||
                   location->MajorFunction == IRP_MJ_CLOSE;
  status = Complete(irp, handle ? STATUS_SUCCESS : STATUS_INVALID_DEVICE_REQUEST, 0);
  IoReleaseRemoveLock(&own->lock, irp);
  return status;
}

static NTSTATUS NTAPI AddDevice(PDRIVER_OBJECT driver, PDEVICE_OBJECT pdo) {
  PDEVICE_OBJECT device;
  if (failAdd) return STATUS_INSUFFICIENT_RESOURCES;
  NTSTATUS status = IoCreateDevice(driver, sizeof(EXTENSION), NULL, FILE_DEVICE_UNKNOWN, 0, FALSE, &device);
  if (!NT_SUCCESS(status)) return status;
  EXTENSION *own = device->DeviceExtension;
  IoInitializeRemoveLock(&own->lock, TAG, 0, 0);
  if (function) status = IoRegisterDeviceInterface(pdo, &StackInterface, NULL, &own->link);
  own->lower = NT_SUCCESS(status) ? IoAttachDeviceToDeviceStack(device, pdo) : NULL;
  if (!own->lower) {
    if (own->link.Buffer) RtlFreeUnicodeString(&own->link);
    IoDeleteDevice(device);
    return NT_SUCCESS(status) ? STATUS_NO_SUCH_DEVICE : status;
  }
  device->DeviceType = own->lower->DeviceType;
  device->Characteristics = own->lower->Characteristics;
  device->Flags |= own->lower->Flags & (DO_BUFFERED_IO | DO_DIRECT_IO | DO_POWER_PAGABLE);
  device->Flags &= ~DO_DEVICE_INITIALIZING;
  return STATUS_SUCCESS;
}

static void NTAPI Unload(PDRIVER_OBJECT driver) {
  UNREFERENCED_PARAMETER(driver);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING path) {
  UNREFERENCED_PARAMETER(path);
  place = Parameter(driver, L"Place", 0);
  function = Parameter(driver, L"Function", FALSE);
  failAdd = Parameter(driver, L"FailAdd", FALSE);
  stayAttached = Parameter(driver, L"StayAttached", FALSE);
  for (ULONG major = 0; major <= IRP_MJ_MAXIMUM_FUNCTION; major++) driver->MajorFunction[major] = Dispatch;
  driver->MajorFunction[IRP_MJ_PNP] = DispatchPnp;
  driver->DriverExtension->AddDevice = AddDevice;
  driver->DriverUnload = Unload;
  return STATUS_SUCCESS;
}
