/* What the drivers of a PnP stack share, and what stack.c and bus.c answer. */
#pragma once

#include "common.h"

/* Byte 0 of the buffer counts the drivers that have seen it, which write their places behind it; the function driver ends it well. */
#define IOCTL_TRAIL TEST_IOCTL(0x40, METHOD_BUFFERED)
/* To bus.c: a child with the serial number in the buffer comes, goes without a word, or has its eject button pressed. */
#define IOCTL_PLUG TEST_IOCTL(0x50, METHOD_BUFFERED)
#define IOCTL_UNPLUG TEST_IOCTL(0x51, METHOD_BUFFERED)
#define IOCTL_EJECT TEST_IOCTL(0x52, METHOD_BUFFERED)

/* {5b0f9d1c-60e2-4f0b-8f9d-2c6f0d1b7a31} and {5b0f9d1c-60e2-4f0b-8f9d-2c6f0d1b7a32} */
static const GUID StackInterface = {0x5b0f9d1c, 0x60e2, 0x4f0b, {0x8f, 0x9d, 0x2c, 0x6f, 0x0d, 0x1b, 0x7a, 0x31}};
static const GUID BusInterface = {0x5b0f9d1c, 0x60e2, 0x4f0b, {0x8f, 0x9d, 0x2c, 0x6f, 0x0d, 0x1b, 0x7a, 0x32}};

/* A REG_DWORD of the driver's Parameters key. */
static inline ULONG Parameter(PDRIVER_OBJECT driver, PCWSTR name, ULONG otherwise) {
  struct {
    KEY_VALUE_PARTIAL_INFORMATION value;
    UCHAR more[sizeof(ULONG)];
  } room;
  UNICODE_STRING text;
  HANDLE key;
  ULONG length;
  if (!NT_SUCCESS(IoOpenDriverRegistryKey(driver, DriverRegKeyParameters, KEY_READ, 0, &key))) return otherwise;
  RtlInitUnicodeString(&text, name);
  NTSTATUS status = ZwQueryValueKey(key, &text, KeyValuePartialInformation, &room, sizeof room, &length);
  ZwClose(key);
  return NT_SUCCESS(status) && room.value.Type == REG_DWORD ? *(ULONG *)room.value.Data : otherwise;
}

static inline NTSTATUS NTAPI Lowered(PDEVICE_OBJECT device, PIRP irp, PVOID event) {
  UNREFERENCED_PARAMETER(device);
  if (irp->PendingReturned) KeSetEvent(event, IO_NO_INCREMENT, FALSE);
  return STATUS_MORE_PROCESSING_REQUIRED;
}

/* Sends a request to the drivers below and waits for them; its status. The caller completes it. */
static inline NTSTATUS PassAndWait(PDEVICE_OBJECT lower, PIRP irp) {
  KEVENT event;
  KeInitializeEvent(&event, NotificationEvent, FALSE);
  IoCopyCurrentIrpStackLocationToNext(irp);
  IoSetCompletionRoutine(irp, Lowered, &event, TRUE, TRUE, TRUE);
  NTSTATUS status = IoCallDriver(lower, irp);
  if (status == STATUS_PENDING) {
    KeWaitForSingleObject(&event, Executive, KernelMode, FALSE, NULL);
    status = irp->IoStatus.Status;
  }
  return status;
}
