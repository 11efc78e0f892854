/* A function driver of a PCI function whose registers are memory: the first holds what is written to it, the second counts interrupts. */
#include "stack.h"

typedef struct {
  PDEVICE_OBJECT lower, pdo;
  PULONG registers;
  ULONG length;
  PVOID interrupt;
  ULONG version;
  UNICODE_STRING link;
} EXTENSION;

static BOOLEAN NTAPI Isr(PKINTERRUPT interrupt, PVOID context) {
  UNREFERENCED_PARAMETER(interrupt);
  EXTENSION *own = context;
  WRITE_REGISTER_ULONG(own->registers + 1, READ_REGISTER_ULONG(own->registers + 1) + 1);
  return TRUE;
}

static NTSTATUS NTAPI Lowered(PDEVICE_OBJECT device, PIRP irp, PVOID event) {
  UNREFERENCED_PARAMETER(device);
  if (irp->PendingReturned) KeSetEvent(event, IO_NO_INCREMENT, FALSE);
  return STATUS_MORE_PROCESSING_REQUIRED;
}

static NTSTATUS PassDown(EXTENSION *own, PIRP irp) {
  IoSkipCurrentIrpStackLocation(irp);
  return IoCallDriver(own->lower, irp);
}

static NTSTATUS Connect(EXTENSION *own) {
  IO_CONNECT_INTERRUPT_PARAMETERS parameters = {.Version = CONNECT_LINE_BASED};
  parameters.LineBased.PhysicalDeviceObject = own->pdo;
  parameters.LineBased.InterruptObject = (PKINTERRUPT *)&own->interrupt;
  parameters.LineBased.ServiceRoutine = Isr;
  parameters.LineBased.ServiceContext = own;
  NTSTATUS status = IoConnectInterruptEx(&parameters);
  own->version = parameters.Version;
  return status;
}

static void Release(EXTENSION *own) {
  if (own->interrupt) {
    IO_DISCONNECT_INTERRUPT_PARAMETERS parameters = {.Version = own->version};
    parameters.ConnectionContext.InterruptObject = own->interrupt;
    IoDisconnectInterruptEx(&parameters);
    own->interrupt = NULL;
  }
  if (own->registers) MmUnmapIoSpace(own->registers, own->length);
  own->registers = NULL;
}

static NTSTATUS UseResources(EXTENSION *own, PCM_RESOURCE_LIST list) {
  if (!list) return STATUS_INSUFFICIENT_RESOURCES;
  PCM_PARTIAL_RESOURCE_LIST resources = &list->List[0].PartialResourceList;
  for (ULONG index = 0; index < resources->Count; index++) {
    PCM_PARTIAL_RESOURCE_DESCRIPTOR resource = &resources->PartialDescriptors[index];
    if (resource->Type != CmResourceTypeMemory) continue;
    own->length = resource->u.Memory.Length;
    own->registers = MmMapIoSpaceEx(resource->u.Memory.Start, own->length, PAGE_READWRITE | PAGE_NOCACHE);
  }
  NTSTATUS status = own->registers ? Connect(own) : STATUS_INSUFFICIENT_RESOURCES;
  if (!NT_SUCCESS(status)) Release(own);
  return status;
}

static NTSTATUS Start(EXTENSION *own, PIRP irp) {
  KEVENT event;
  PCM_RESOURCE_LIST list = IoGetCurrentIrpStackLocation(irp)->Parameters.StartDevice.AllocatedResourcesTranslated;
  KeInitializeEvent(&event, NotificationEvent, FALSE);
  IoCopyCurrentIrpStackLocationToNext(irp);
  IoSetCompletionRoutine(irp, Lowered, &event, TRUE, TRUE, TRUE);
  NTSTATUS status = IoCallDriver(own->lower, irp);
  if (status == STATUS_PENDING) {
    KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
    status = irp->IoStatus.Status;
  }
  if (NT_SUCCESS(status)) status = UseResources(own, list);
  /* A restart finds the interface enabled. */
  if (NT_SUCCESS(status)) IoSetDeviceInterfaceState(&own->link, TRUE);
  return Complete(irp, status, 0);
}

static void Disable(EXTENSION *own) {
  Release(own);
  if (!own->link.Buffer) return;
  IoSetDeviceInterfaceState(&own->link, FALSE);
  RtlFreeUnicodeString(&own->link);
}

static NTSTATUS NTAPI DispatchPnp(PDEVICE_OBJECT device, PIRP irp) {
  EXTENSION *own = device->DeviceExtension;
  NTSTATUS status;
  switch (IoGetCurrentIrpStackLocation(irp)->MinorFunction) {
    case IRP_MN_START_DEVICE: return Start(own, irp);
    case IRP_MN_REMOVE_DEVICE:
      Disable(own);
      irp->IoStatus.Status = STATUS_SUCCESS;
      status = PassDown(own, irp);
      IoDetachDevice(own->lower);
      IoDeleteDevice(device);
      return status;
    case IRP_MN_SURPRISE_REMOVAL:
      Disable(own);
      irp->IoStatus.Status = STATUS_SUCCESS;
      break;
    case IRP_MN_STOP_DEVICE:
      Release(own);
      irp->IoStatus.Status = STATUS_SUCCESS;
      break;
    case IRP_MN_QUERY_STOP_DEVICE:
    case IRP_MN_CANCEL_STOP_DEVICE:
    case IRP_MN_QUERY_REMOVE_DEVICE:
    case IRP_MN_CANCEL_REMOVE_DEVICE: irp->IoStatus.Status = STATUS_SUCCESS; break;
  }
  return PassDown(own, irp);
}

static NTSTATUS NTAPI DispatchPassDown(PDEVICE_OBJECT device, PIRP irp) {
  return PassDown(device->DeviceExtension, irp);
}

static NTSTATUS NTAPI DispatchOpenClose(PDEVICE_OBJECT device, PIRP irp) {
  UNREFERENCED_PARAMETER(device);
  return Complete(irp, STATUS_SUCCESS, 0);
}

/* Reads a register, and writes its offset's complement to it. */
static NTSTATUS NTAPI DispatchRead(PDEVICE_OBJECT device, PIRP irp) {
  EXTENSION *own = device->DeviceExtension;
  PIO_STACK_LOCATION location = IoGetCurrentIrpStackLocation(irp);
  ULONGLONG offset = (ULONGLONG)location->Parameters.Read.ByteOffset.QuadPart;
  if (location->Parameters.Read.Length != sizeof(ULONG) || offset % sizeof(ULONG) || !own->registers ||
      offset >= own->length)
    return Complete(irp, STATUS_INVALID_PARAMETER, 0);
  PULONG place = own->registers + offset / sizeof(ULONG);
  *(PULONG)irp->AssociatedIrp.SystemBuffer = READ_REGISTER_ULONG(place);
  if (offset != sizeof(ULONG)) WRITE_REGISTER_ULONG(place, ~(ULONG)offset);
  return Complete(irp, STATUS_SUCCESS, sizeof(ULONG));
}

static NTSTATUS NTAPI AddDevice(PDRIVER_OBJECT driver, PDEVICE_OBJECT pdo) {
  PDEVICE_OBJECT device;
  NTSTATUS status = IoCreateDevice(driver, sizeof(EXTENSION), NULL, FILE_DEVICE_UNKNOWN, 0, FALSE, &device);
  if (!NT_SUCCESS(status)) return status;
  EXTENSION *own = device->DeviceExtension;
  own->pdo = pdo;
  status = IoRegisterDeviceInterface(pdo, &StackInterface, NULL, &own->link);
  own->lower = NT_SUCCESS(status) ? IoAttachDeviceToDeviceStack(device, pdo) : NULL;
  if (!own->lower) {
    if (own->link.Buffer) RtlFreeUnicodeString(&own->link);
    IoDeleteDevice(device);
    return NT_SUCCESS(status) ? STATUS_NO_SUCH_DEVICE : status;
  }
  device->Flags |= DO_BUFFERED_IO | DO_POWER_PAGABLE;
  device->Flags &= ~DO_DEVICE_INITIALIZING;
  return STATUS_SUCCESS;
}

static void NTAPI Unload(PDRIVER_OBJECT driver) {
  UNREFERENCED_PARAMETER(driver);
}

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING path) {
  UNREFERENCED_PARAMETER(path);
  driver->MajorFunction[IRP_MJ_CREATE] = DispatchOpenClose;
  driver->MajorFunction[IRP_MJ_CLEANUP] = DispatchOpenClose;
  driver->MajorFunction[IRP_MJ_CLOSE] = DispatchOpenClose;
  driver->MajorFunction[IRP_MJ_READ] = DispatchRead;
  driver->MajorFunction[IRP_MJ_PNP] = DispatchPnp;
  driver->MajorFunction[IRP_MJ_POWER] = DispatchPassDown;
  driver->MajorFunction[IRP_MJ_SYSTEM_CONTROL] = DispatchPassDown;
  driver->DriverExtension->AddDevice = AddDevice;
  driver->DriverUnload = Unload;
  return STATUS_SUCCESS;
}
