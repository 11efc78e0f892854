/* A driver that needs what the lab does not have. */
#include "common.h"

NTSTATUS NTAPI DriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING path) {
  UNREFERENCED_PARAMETER(path);
  ULONG length;
  return IoGetDeviceProperty(driver->DeviceObject, DevicePropertyBusNumber, 0, NULL, &length) +
         (NTSTATUS)(ULONG_PTR)IoGetBootDiskInformation(NULL, 0);
}
