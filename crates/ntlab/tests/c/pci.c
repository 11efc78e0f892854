/* A function driver of a PCI function whose registers are memory: the second counts interrupts. With the parameter Legacy it connects its
 * interrupt as drivers did before IoConnectInterruptEx. */
#include "stack.h"

typedef struct {
  PDEVICE_OBJECT lower, pdo;
  PULONG registers;
  ULONG length;
  PVOID interrupt;
  ULONG version;
  UNICODE_STRING link;
} EXTENSION;

static ULONG legacy;

static BOOLEAN NTAPI Isr(PKINTERRUPT interrupt, PVOID context) {
  UNREFERENCED_PARAMETER(interrupt);
  EXTENSION *own = context;
  WRITE_REGISTER_ULONG(own->registers + 1, READ_REGISTER_ULONG(own->registers + 1) + 1);
  return TRUE;
}

static NTSTATUS PassDown(EXTENSION *own, PIRP irp) {
  IoSkipCurrentIrpStackLocation(irp);
  return IoCallDriver(own->lower, irp);
}

static NTSTATUS Connect(EXTENSION *own, PCM_PARTIAL_RESOURCE_DESCRIPTOR line) {
  if (legacy) {
    if (!line) return STATUS_INSUFFICIENT_RESOURCES;
    KIRQL irql = (KIRQL)line->u.Interrupt.Level;
    return IoConnectInterrupt((PKINTERRUPT *)&own->interrupt, Isr, own, NULL, line->u.Interrupt.Vector, irql, irql,
                              LevelSensitive, TRUE, line->u.Interrupt.Affinity, FALSE);
  }
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
  if (own->interrupt && legacy) {
    IoDisconnectInterrupt(own->interrupt);
    own->interrupt = NULL;
  }
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
  PCM_PARTIAL_RESOURCE_DESCRIPTOR line = NULL;
  for (ULONG index = 0; index < resources->Count; index++) {
    PCM_PARTIAL_RESOURCE_DESCRIPTOR resource = &resources->PartialDescriptors[index];
    if (resource->Type == CmResourceTypeInterrupt) line = resource;
    if (resource->Type != CmResourceTypeMemory) continue;
    own->length = resource->u.Memory.Length;
    own->registers = MmMapIoSpaceEx(resource->u.Memory.Start, own->length, PAGE_READWRITE | PAGE_NOCACHE);
  }
  NTSTATUS status = own->registers ? Connect(own, line) : STATUS_INSUFFICIENT_RESOURCES;
  if (!NT_SUCCESS(status)) Release(own);
  return status;
}

/* What the PnP manager says of the device must be what it is. */
static NTSTATUS CheckProperties(EXTENSION *own) {
  WCHAR text[200];
  ULONG length;
  NTSTATUS status = IoGetDeviceProperty(own->pdo, DevicePropertyEnumeratorName, sizeof text, text, &length);
  if (!NT_SUCCESS(status) || length != sizeof L"PCI" || text[0] != L'P' || text[2] != L'I') return STATUS_DATA_ERROR;
  if (IoGetDeviceProperty(own->pdo, DevicePropertyHardwareID, 2, text, &length) != STATUS_BUFFER_TOO_SMALL)
    return STATUS_DATA_ERROR;
  status = IoGetDeviceProperty(own->pdo, DevicePropertyHardwareID, sizeof text, text, &length);
  if (!NT_SUCCESS(status) || text[4] != L'V' || text[length / 2 - 1] || text[length / 2 - 2]) return STATUS_DATA_ERROR;
  status = IoGetDeviceProperty(own->pdo, DevicePropertyPhysicalDeviceObjectName, sizeof text, text, &length);
  return NT_SUCCESS(status) && text[1] == L'D' ? STATUS_SUCCESS : STATUS_DATA_ERROR;
}

static NTSTATUS Start(EXTENSION *own, PIRP irp) {
  PCM_RESOURCE_LIST list = IoGetCurrentIrpStackLocation(irp)->Parameters.StartDevice.AllocatedResourcesTranslated;
  NTSTATUS status = PassAndWait(own->lower, irp);
  if (NT_SUCCESS(status)) status = CheckProperties(own);
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
  legacy = Parameter(driver, L"Legacy", FALSE);
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
