/* What the drivers of these tests share. */
#pragma once

#include <ntifs.h>

#define TEST_IOCTL(function, method) CTL_CODE(FILE_DEVICE_UNKNOWN, 0x800 + (function), (method), FILE_ANY_ACCESS)

/* Ends a request and returns its status. */
static inline NTSTATUS Complete(PIRP irp, NTSTATUS status, ULONG_PTR information) {
  irp->IoStatus.Status = status;
  irp->IoStatus.Information = information;
  IoCompleteRequest(irp, IO_NO_INCREMENT);
  return status;
}

/* A device without PnP, and the name by which programs open it. */
static inline NTSTATUS CreateNamedDevice(PDRIVER_OBJECT driver, ULONG extension, PCWSTR device_name, PCWSTR link_name,
                                         PDEVICE_OBJECT *device) {
  UNICODE_STRING name, link;
  RtlInitUnicodeString(&name, device_name);
  RtlInitUnicodeString(&link, link_name);
  NTSTATUS status = IoCreateDevice(driver, extension, &name, FILE_DEVICE_UNKNOWN, FILE_DEVICE_SECURE_OPEN, FALSE, device);
  if (!NT_SUCCESS(status)) return status;
  status = IoCreateSymbolicLink(&link, &name);
  if (!NT_SUCCESS(status)) IoDeleteDevice(*device);
  return status;
}

static inline void DeleteNamedDevice(PDEVICE_OBJECT device, PCWSTR link_name) {
  UNICODE_STRING link;
  RtlInitUnicodeString(&link, link_name);
  IoDeleteSymbolicLink(&link);
  IoDeleteDevice(device);
}
